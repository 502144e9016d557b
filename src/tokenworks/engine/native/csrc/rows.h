// What happens to a row between two matrix products: norms, rotary embedding, the KV write.
#pragma once

#include "api.h"
#include "simd.h"
#include "team.h"

namespace tokenworks {

// Root-mean-square norm (arXiv 1910.07467) of one row of `width` values, a multiple of 16.
template <class From, class To>
inline void norm_row(const From* x, const float* weight, int width, float eps, To* out) {
    __m512 squares = _mm512_setzero_ps();
    for (int i = 0; i < width; i += 16) {
        const __m512 v = load16(x + i);
        squares = _mm512_fmadd_ps(v, v, squares);
    }
    const __m512 factor = _mm512_set1_ps(1.0f / __builtin_sqrtf(_mm512_reduce_add_ps(squares) / width + eps));
    for (int i = 0; i < width; i += 16)
        store16(out + i, _mm512_mul_ps(_mm512_mul_ps(load16(x + i), factor), _mm512_loadu_ps(weight + i)));
}

// Splits each row of merged query, key and value heads; norms (where the model does) and rotates queries and keys; writes
// keys and values to their slots.
void prepare_heads(Team& team, const Model& model, int layer, const KV& kv, const Batch& batch, const Workspace& space);

}  // namespace tokenworks
