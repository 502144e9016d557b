#include "rows.h"

#include "kv.h"

namespace tokenworks {
namespace {

constexpr int kWidestHead = 256;

// x[i], x[i + D/2] turned by the angle of pair i.
void rotate(float* x, const float* turn, int head_dim) {
    const int half = head_dim / 2;
    for (int i = 0; i < half; i += 16) {
        const __m512 a = _mm512_load_ps(x + i), b = _mm512_loadu_ps(x + half + i);
        const __m512 cos = _mm512_loadu_ps(turn + i), sin = _mm512_loadu_ps(turn + half + i);
        _mm512_store_ps(x + i, _mm512_fmsub_ps(a, cos, _mm512_mul_ps(b, sin)));
        _mm512_storeu_ps(x + half + i, _mm512_fmadd_ps(b, cos, _mm512_mul_ps(a, sin)));
    }
}

void norm_and_rotate(const bf16* from, const float* norm, const float* turn, const Model& model, float* to) {
    if (norm) norm_row(from, norm, model.head_dim, model.eps, to);
    else
        for (int i = 0; i < model.head_dim; i += 16) _mm512_store_ps(to + i, load16(from + i));
    rotate(to, turn, model.head_dim);
}

}  // namespace

void prepare_heads(Team& team, const Model& model, int layer, const KV& kv, const Batch& batch, const Workspace& space) {
    const Layer& weights = model.layers[layer];
    const int H = model.num_heads, K = model.num_kv_heads, D = model.head_dim, group = H / K;
    const Plane keys = plane_of(kv, model, layer, false), values = plane_of(kv, model, layer, true);
    team.split(long(batch.num_rows) * K, [&](long begin, long end) {
        alignas(64) float head[kWidestHead];
        for (long i = begin; i < end; ++i) {
            const long t = i / K;
            const int k = static_cast<int>(i % K);
            const bf16* row = space.qkv + t * (H + 2 * K) * D;
            const float* turn = model.rope + batch.positions[t] * D;
            for (int h = k * group; h < (k + 1) * group; ++h) {
                norm_and_rotate(row + h * D, weights.query_norm, turn, model, head);
                for (int d = 0; d < D; d += 16) store16(space.query + (t * H + h) * D + d, _mm512_load_ps(head + d));
            }
            norm_and_rotate(row + (H + k) * D, weights.key_norm, turn, model, head);
            write_head(keys, keys.at(batch.slots[t], k), head);
            for (int d = 0; d < D; d += 16) _mm512_store_ps(head + d, load16(row + (H + K + k) * D + d));
            write_head(values, values.at(batch.slots[t], k), head);
        }
    });
}

}  // namespace tokenworks
