#include "linear.h"

#include <cmath>
#include <type_traits>

namespace tokenworks {
namespace {

constexpr int kTileRows = 6;     // rows whose sums fit the registers next to four vectors of weights
constexpr int kFewRows = 3;      // quantised: whose exact and scaled sums fit next to all four vectors of a block
constexpr int kPanelRows = 48;   // rows that share a stretch of weights while it is in the second-level cache
constexpr int kStretch = 512;    // inputs of that stretch: 64 KiB of bf16
constexpr int kNear = 4096;      // bytes to ask memory for ahead of the weights being read, by the only tile of a panel

template <int N>
using Count = std::integral_constant<int, N>;

// Cuts `rows` into tiles of nearly equal size, at most `most`: work(Count<size>, first).
template <int Most, class Work>
inline void for_tiles(int rows, Work&& work) {
    const int tiles = (rows + Most - 1) / Most;
    for (int t = 0; t < tiles; ++t) {
        const int first = rows * t / tiles, size = rows * (t + 1) / tiles - first;
        switch (size) {
            case 1: work(Count<1>{}, first); break;
            case 2: work(Count<2>{}, first); break;
            case 3: work(Count<3>{}, first); break;
            case 4: if constexpr (Most >= 4) work(Count<4>{}, first); break;
            case 5: if constexpr (Most >= 5) work(Count<5>{}, first); break;
            case 6: if constexpr (Most >= 6) work(Count<6>{}, first); break;
        }
    }
}

// Sums of one block for a panel of rows, kept in memory between stretches of inputs.
struct alignas(64) Sums {
    float at[kPanelRows][kBlock];
};

template <int R, int V>
inline void load(__m512 (&sums)[R][V], const Sums& from, int first, int column) {
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sums[r][v] = _mm512_load_ps(&from.at[first + r][column + 16 * v]);
}
template <int R, int V>
inline void store(const __m512 (&sums)[R][V], Sums& to, int first, int column) {
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) _mm512_store_ps(&to.at[first + r][column + 16 * v], sums[r][v]);
}

// bf16: one instruction multiplies two inputs of 16 outputs.
struct Bf16Weights {
    static constexpr int kWholeRows = kTileRows;  // up to which a block is read in one go
    const bf16* block;

    Bf16Weights(const Linear& linear, long index)
        : block(static_cast<const bf16*>(linear.weights) + index * kBlock * linear.in) {}

    // `Lines` cache lines of each 4 are asked for, `ahead` bytes before they are needed.
    template <int R, int Lines>
    void tile(const Input& input, long first_row, int from, int to, Sums& out, int first, long ahead) const {
        const bf16* rows[R];
        for (int r = 0; r < R; ++r) rows[r] = input.data + input.row(first_row + r) * input.stride;
        __m512 sums[R][4];
        load(sums, out, first, 0);
        const bf16* w = block + long(from) * kBlock;
        const char* soon = reinterpret_cast<const char*>(w) + ahead;
        for (int i = from; i < to; i += 2, w += 2 * kBlock, soon += 4 * kBlock) {
            __m512i weights[4];
            for (int v = 0; v < 4; ++v) weights[v] = load_pairs(w + 32 * v);
            for (int v = 0; v < Lines; ++v) _mm_prefetch(soon + 64 * v, Lines == 4 ? _MM_HINT_T0 : _MM_HINT_T1);
            for (int r = 0; r < R; ++r) {
                const __m512i pair = broadcast_pair(rows[r] + i);
                for (int v = 0; v < 4; ++v) sums[r][v] = dot_pairs(sums[r][v], pair, weights[v]);
            }
        }
        store(sums, out, first, 0);
    }

    // The tiles of a panel read the same weights: while one comes from memory, the next stretch is asked for by all.
    void panel(const Input& input, long first_row, int rows, int from, int to, Sums& out) const {
        const int tiles = (rows + kTileRows - 1) / kTileRows;
        const long stretch = long(to - from) * kBlock * 2;
        int index = 0;
        for_tiles<kTileRows>(rows, [&](auto size, int first) {
            constexpr int R = decltype(size)::value;
            const long row = first_row + first;
            const int t = index++;
            if (tiles == 1) tile<R, 4>(input, row, from, to, out, first, kNear);
            else if (tiles < 4 && t < 2) tile<R, 2>(input, row, from, to, out, first, stretch + 128 * t);
            else if (tiles >= 4 && t < 4) tile<R, 1>(input, row, from, to, out, first, stretch + 64 * t);
            else tile<R, 0>(input, row, from, to, out, first, 0);
        });
    }
};

// int8 and int4: one instruction multiplies four inputs of 16 outputs. The weights carry an offset that makes them
// unsigned, as the instruction wants; it is taken back by starting each sum at -offset * (sum of the activations).
template <int Bits>
struct QuantizedWeights {
    static constexpr int kWholeRows = kFewRows;
    static constexpr int kOffset = 1 << (Bits - 1);
    const uint8_t* block;
    const char* scales;
    int group, groups;

    QuantizedWeights(const Linear& linear, long index)
        : block(static_cast<const uint8_t*>(linear.weights) + index * kBlock * linear.in * Bits / 8),
          scales(static_cast<const char*>(linear.scales)
                 + index * kBlock * (linear.in / linear.group) * (Bits == 8 ? 4 : 2)),
          group(linear.group),
          groups(linear.in / linear.group) {}

    __m512 scale(int g, int column) const {
        const long at = long(g) * kBlock + column;
        if constexpr (Bits == 8) return _mm512_loadu_ps(reinterpret_cast<const float*>(scales) + at);
        else return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales + 2 * at)));
    }

    template <int R, int V>
    static void add_quad(__m512i (&sums)[R][V], const __m512i (&weights)[V], const int8_t* const (&rows)[R], int i) {
        for (int r = 0; r < R; ++r) {
            int32_t quad;
            __builtin_memcpy(&quad, rows[r] + i, sizeof quad);
            const __m512i activations = _mm512_set1_epi32(quad);
            for (int v = 0; v < V; ++v) sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], weights[v], activations);
        }
    }

    template <int R, int V, int Lines>
    void tile(
        const Input& input, long first_row, int from, int to, Sums& out, int first, int column, long ahead) const {
        const int8_t* rows[R];
        const float* row_scales[R];
        const int32_t* row_sums[R];
        for (int r = 0; r < R; ++r) {
            const long row = input.row(first_row + r);
            rows[r] = input.codes + row * group * groups;
            row_scales[r] = input.scales + row * groups;
            row_sums[r] = input.sums + row * groups;
        }
        __m512 sums[R][V];
        load(sums, out, first, column);
        const uint8_t* w = block + long(from) * kBlock * Bits / 8;
        const char* soon = reinterpret_cast<const char*>(w) + ahead;
        w += column * 4;
        for (int g = from / group; g < to / group; ++g) {
            __m512i exact[R][V];
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < V; ++v) exact[r][v] = _mm512_set1_epi32(-kOffset * row_sums[r][g]);
            for (int i = g * group; i < (g + 1) * group; i += 32 / Bits, w += 4 * kBlock, soon += 4 * kBlock) {
                __m512i weights[V];
                for (int v = 0; v < V; ++v) weights[v] = _mm512_loadu_si512(w + 64 * v);
                for (int v = 0; v < Lines; ++v) _mm_prefetch(soon + 64 * v, Lines == 4 ? _MM_HINT_T0 : _MM_HINT_T1);
                if constexpr (Bits == 8) {
                    add_quad(exact, weights, rows, i);
                } else {
                    const __m512i low_half = _mm512_set1_epi8(15);
                    __m512i low[V], high[V];
                    for (int v = 0; v < V; ++v) {
                        low[v] = _mm512_and_si512(weights[v], low_half);
                        high[v] = _mm512_and_si512(_mm512_srli_epi16(weights[v], 4), low_half);
                    }
                    add_quad(exact, low, rows, i);
                    add_quad(exact, high, rows, i + 4);
                }
            }
            for (int v = 0; v < V; ++v) {
                const __m512 weight_scale = scale(g, column + 16 * v);
                for (int r = 0; r < R; ++r) {
                    const __m512 both = _mm512_mul_ps(weight_scale, _mm512_set1_ps(row_scales[r][g]));
                    sums[r][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact[r][v]), both, sums[r][v]);
                }
            }
        }
        store(sums, out, first, column);
    }

    void panel(const Input& input, long first_row, int rows, int from, int to, Sums& out) const {
        if (rows <= kFewRows) {
            for_tiles<kFewRows>(rows, [&](auto size, int first) {
                tile<decltype(size)::value, 4, 4>(input, first_row + first, from, to, out, first, 0, kNear);
            });
            return;
        }
        const int tiles = (rows + kTileRows - 1) / kTileRows;
        const long stretch = long(to - from) * kBlock * Bits / 8;
        int turn = 0;
        for (int column = 0; column < kBlock; column += 32)
            for_tiles<kTileRows>(rows, [&](auto size, int first) {
                constexpr int R = decltype(size)::value;
                const long row = first_row + first;
                const int t = turn++;
                if (tiles == 1) tile<R, 2, 2>(input, row, from, to, out, first, column, stretch + 128 * t);
                else if (t < 4) tile<R, 2, 1>(input, row, from, to, out, first, column, stretch + 64 * t);
                else tile<R, 2, 0>(input, row, from, to, out, first, column, 0);
            });
    }
};

// Which of 16 outputs from `column` on exist.
__mmask16 valid_lanes(int out, long column) {
    const long left = std::max(0L, std::min(16L, out - column));
    return static_cast<__mmask16>((1u << left) - 1);
}

void start(const Linear& linear, long block, int rows, Sums& sums) {
    for (int v = 0; v < kBlock; v += 16) {
        const long column = block * kBlock + v;
        const __mmask16 valid = valid_lanes(linear.out, column);
        const __m512 bias = linear.bias ? _mm512_maskz_loadu_ps(valid, linear.bias + column) : _mm512_setzero_ps();
        for (int r = 0; r < rows; ++r) _mm512_store_ps(&sums.at[r][v], bias);
    }
}

template <class Weights>
void sum_up(const Linear& linear, const Input& input, long block, long first_row, int rows, Sums& sums) {
    const Weights weights(linear, block);
    const int stretch = rows <= Weights::kWholeRows ? linear.in : kStretch;
    for (int from = 0; from < linear.in; from += stretch)
        weights.panel(input, first_row, rows, from, std::min(from + stretch, linear.in), sums);
}

void panel_of(const Linear& linear, const Input& input, long block, long first_row, int rows, Sums& sums) {
    start(linear, block, rows, sums);
    switch (linear.kind) {
        case kBf16: return sum_up<Bf16Weights>(linear, input, block, first_row, rows, sums);
        case kInt8: return sum_up<QuantizedWeights<8>>(linear, input, block, first_row, rows, sums);
        case kInt4: return sum_up<QuantizedWeights<4>>(linear, input, block, first_row, rows, sums);
    }
}

template <class Panel>
void for_panels(long begin, long end, Panel&& panel) {
    const long panels = (end - begin + kPanelRows - 1) / kPanelRows;
    for (long p = 0; p < panels; ++p) {
        const long first = begin + (end - begin) * p / panels;
        panel(first, static_cast<int>(begin + (end - begin) * (p + 1) / panels - first));
    }
}

void quantize_group(const bf16* x, int group, int8_t* codes, float* scale, int32_t* sum) {
    __m512 largest = _mm512_setzero_ps();
    for (int i = 0; i < group; i += 16) largest = _mm512_max_ps(largest, _mm512_abs_ps(load16(x + i)));
    const float most = _mm512_reduce_max_ps(largest);
    *scale = most / 127.0f;
    const __mmask16 any = *scale > 0 ? 0xffff : 0;  // all zeros otherwise
    __m512i total = _mm512_setzero_si512();
    for (int i = 0; i < group; i += 16) {
        const __m512i code = _mm512_maskz_cvtps_epi32(any, _mm512_div_ps(load16(x + i), _mm512_set1_ps(*scale)));
        total = _mm512_add_epi32(total, code);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), _mm512_cvtsepi32_epi8(code));
    }
    *sum = _mm512_reduce_add_epi32(total);
}

template <class Piece>
void share_blocks(Team& team, long blocks, long rows, Piece&& piece) {
    const int parts = row_parts(blocks, rows, team.size);
    team.share(blocks * parts, [&](long i) {
        const long part = i % parts;
        piece(i / parts, rows * part / parts, rows * (part + 1) / parts);
    });
}

}  // namespace

void quantize_rows(
    const bf16* rows, long stride, int in, int group, long begin, long end, int8_t* codes, float* scales,
    int32_t* sums) {
    const int groups = in / group;
    for (long r = begin; r < end; ++r)
        for (int g = 0; g < groups; ++g)
            quantize_group(
                rows + r * stride + long(g) * group, group, codes + r * in + long(g) * group, scales + r * groups + g,
                sums + r * groups + g);
}

Input prepare(Team& team, const Linear& linear, const bf16* data, long stride, long rows, const CodeSpace& space) {
    if (linear.kind == kBf16) return {data, stride, nullptr, nullptr, nullptr, nullptr};
    team.split(rows, [&](long begin, long end) {
        quantize_rows(data, stride, linear.in, linear.group, begin, end, space.codes, space.scales, space.sums);
    });
    return {data, stride, nullptr, space.codes, space.scales, space.sums};
}

Input prepare_alone(const Linear& linear, const bf16* row, long place, const CodeSpace& space) {
    if (linear.kind == kBf16) return {row, 0, nullptr, nullptr, nullptr, nullptr};
    const long groups = linear.in / linear.group;
    const CodeSpace own{space.codes + place * linear.in, space.scales + place * groups, space.sums + place * groups};
    quantize_rows(row, 0, linear.in, linear.group, 0, 1, own.codes, own.scales, own.sums);
    return {row, 0, nullptr, own.codes, own.scales, own.sums};
}

int row_parts(long blocks, long rows, int threads) {
    const long panels = (rows + kPanelRows - 1) / kPanelRows;
    return static_cast<int>(std::clamp(64L * threads / std::max(blocks, 1L), 1L, panels));
}

void block_of(const Linear& linear, const Input& input, long block, long begin, long end, const Output& output) {
    for_panels(begin, end, [&](long first, int rows) {
        Sums sums;
        panel_of(linear, input, block, first, rows, sums);
        for (int v = 0; v < kBlock; v += 16) {
            const long column = block * kBlock + v;
            const __mmask16 valid = valid_lanes(linear.out, column);
            if (!valid) break;
            for (int r = 0; r < rows; ++r)
                output.put(first + r, static_cast<int>(column), _mm512_load_ps(&sums.at[r][v]), valid);
        }
    });
}

void gated_block_of(const Linear& linear, const Input& input, long block, long begin, long end, const Output& output) {
    const long half = linear.out / 2 / kBlock;
    for_panels(begin, end, [&](long first, int rows) {
        Sums gate, up;
        panel_of(linear, input, block, first, rows, gate);
        panel_of(linear, input, half + block, first, rows, up);
        for (int r = 0; r < rows; ++r)
            for (int v = 0; v < kBlock; v += 16) {
                const __m512 value = _mm512_mul_ps(silu(_mm512_load_ps(&gate.at[r][v])), _mm512_load_ps(&up.at[r][v]));
                output.put(first + r, static_cast<int>(block * kBlock + v), value, 0xffff);
            }
    });
}

void multiply(Team& team, const Linear& linear, const Input& input, long rows, const Output& output) {
    share_blocks(team, blocks_of(linear.out), rows, [&](long block, long begin, long end) {
        block_of(linear, input, block, begin, end, output);
    });
}

void multiply_gated(Team& team, const Linear& linear, const Input& input, long rows, const Output& output) {
    share_blocks(team, blocks_of(linear.out / 2), rows, [&](long block, long begin, long end) {
        gated_block_of(linear, input, block, begin, end, output);
    });
}

}  // namespace tokenworks
