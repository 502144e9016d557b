// Matrix products with weights packed in blocks of 64 outputs, for any number of rows.
//
// bf16 layout [out / 64, in / 2, 64, 2]: what VDPBF16PS, and AMX's tiles, read in order; it is oneDNN's own blocked format,
// so that one copy of the weights serves oneDNN and these loops. int8 [out / 64, in / 4, 64, 4], stored plus 128;
// int4 [out / 64, in / 8, 64, 4], stored plus 8, inputs 8i .. 8i+3 in the low half bytes and 8i+4 .. 8i+7 in the high.
// Padding: out to whole blocks with zeros; in is a multiple of 32 (quantised: of `group`).
//
// A row's sums are taken in the order of the inputs however many rows there are and whoever computes them: results do not
// depend on the batch. Quantised products multiply integers: activations are quantised per row and group on the way in,
// each group's exact int32 sum is scaled and added in float32.
#pragma once

#include "api.h"
#include "simd.h"
#include "team.h"

namespace tokenworks {

constexpr int kBlock = 64;  // outputs

// The rows of a product: row r is at index[r] (r where there is no index) of each array.
struct Input {
    const bf16* data;
    long stride;
    const int32_t* index;
    const int8_t* codes;  // quantised: [row, in], [row, in / group] scales and sums of codes
    const float* scales;
    const int32_t* sums;

    long row(long r) const { return index ? index[r] : r; }
};

// Where results go: row r of the product is row index[r] (r where there is no index) of `data`.
struct Output {
    enum Kind { kStoreBf16, kStoreFloat, kAddFloat } kind;
    void* data;
    long stride;
    const int32_t* index;

    void put(long r, int column, __m512 v, __mmask16 valid) const;
};

inline void Output::put(long r, int column, __m512 v, __mmask16 valid) const {
    const long at = (index ? index[r] : r) * stride + column;
    if (kind == kStoreBf16) {
        _mm256_mask_storeu_epi16(static_cast<bf16*>(data) + at, valid, (__m256i)_mm512_cvtneps_pbh(v));
        return;
    }
    float* to = static_cast<float*>(data) + at;
    if (kind == kAddFloat) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(valid, to));
    _mm512_mask_storeu_ps(to, valid, v);
}

// Quantises rows [begin, end) of `in` values each to codes of 8 bits: per group, scale = largest / 127.
void quantize_rows(
    const bf16* rows, long stride, int in, int group, long begin, long end, int8_t* codes, float* scales, int32_t* sums);

// Where a product's quantised activations are kept.
struct CodeSpace {
    int8_t* codes;
    float* scales;
    int32_t* sums;
};

// The input of a product with `linear`: quantised first where the weights are. Ends in a barrier.
Input prepare(Team& team, const Linear& linear, const bf16* data, long stride, long rows, const CodeSpace& space);

// The same for one row and by one thread, without a barrier; `place`: which row of `space` it may use.
Input prepare_alone(const Linear& linear, const bf16* row, long place, const CodeSpace& space);

// One piece of work of a product: the block's 64 outputs of rows [begin, end).
void block_of(const Linear& linear, const Input& input, long block, long begin, long end, const Output& output);

// The same of a product with gate and up side by side: stores silu(gate) * up. `block` counts those of the gate.
void gated_block_of(const Linear& linear, const Input& input, long block, long begin, long end, const Output& output);

// How many parts the rows of a product, one or more, are cut into, so that there is work for every thread of a large team.
int row_parts(long blocks, long rows, int threads);

inline long blocks_of(int out) { return (out + kBlock - 1) / kBlock; }

// The whole product, shared by the team.
void multiply(Team& team, const Linear& linear, const Input& input, long rows, const Output& output);
void multiply_gated(Team& team, const Linear& linear, const Input& input, long rows, const Output& output);

}  // namespace tokenworks
