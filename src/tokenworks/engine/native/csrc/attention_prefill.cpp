#include <cmath>

#include "attention.h"
#include "kv.h"

namespace tokenworks {
namespace {

constexpr int kTokens = 64;   // of a tile of keys and values
constexpr int kQueries = 96;  // that share a tile, of each query head
constexpr int kRows = 6;      // whose sums fit the registers next to four vectors of keys or values
constexpr int kWidest = 256;  // head_dim
constexpr int kMostGroup = 16;

// One kv head's tile: keys as [D / 2, token, 2], values as [token / 2, D, 2].
struct alignas(64) Tile {
    bf16 keys[kWidest * kTokens];
    bf16 values[kWidest * kTokens];
};

// A block of queries of one query head, next to each other (in memory they lie a multiple of 4 KiB apart, where they would
// push each other out of the first-level cache), and their running state.
struct alignas(64) State {
    bf16 query[kQueries * kWidest];  // [query, D]
    float out[kQueries * kWidest];  // [query, D]
    float largest[kQueries];
    float total[kQueries];
};

struct Work {
    const Model& model;
    const Chunk& chunk;
    int window;     // 0: all
    int kv_head;
    int first, count;  // queries of the chunk

    int position(int query) const { return chunk.context_tokens + query; }
    int earliest(int query) const { return window ? std::max(0, position(query) - window + 1) : 0; }
};

void fill(const Work& work, const Plane& keys, const Plane& values, int start, int end, Tile& tile) {
    const int D = work.model.head_dim;
    alignas(64) uint32_t words[16][kWidest / 2];
    const uint32_t* rows[16];
    const auto head_of = [&](const Plane& plane, int token) {
        return plane.at(work.chunk.slots[std::min(token, end - 1)], work.kv_head);
    };
    for (int t = 0; t < kTokens; t += 16)
        for (int d = 0; d < D; d += 32) {
            for (int i = 0; i < 16; ++i) {
                _mm512_store_si512(words[i], read_pairs(keys, head_of(keys, start + t + i), d));
                rows[i] = words[i];
            }
            transpose16(rows, reinterpret_cast<uint32_t*>(tile.keys) + d / 2 * kTokens + t, kTokens);
        }
    for (int t = 0; t < kTokens; t += 2)
        for (int d = 0; d < D; d += 32) {
            const Interleaved pairs = interleave(
                read_pairs(values, head_of(values, start + t), d), read_pairs(values, head_of(values, start + t + 1), d));
            _mm512_store_si512(tile.values + t * D + 2 * d, pairs.low);
            _mm512_store_si512(tile.values + t * D + 2 * d + 32, pairs.high);
        }
}

// sums[r][v] += row r . columns 16 v .. 16 v + 15, over pairs of inputs; `stride` is from pair to pair.
template <int R, int V>
inline void add_products(
    __m512 (&sums)[R][V], const bf16* rows, long row_stride, const bf16* columns, long stride, int pairs) {
    for (int p = 0; p < pairs; ++p, columns += stride) {
        __m512i weights[V];
        for (int v = 0; v < V; ++v) weights[v] = load_pairs(columns + 32 * v);
        for (int r = 0; r < R; ++r) {
            const __m512i pair = broadcast_pair(rows + r * row_stride + 2 * p);
            for (int v = 0; v < V; ++v) sums[r][v] = dot_pairs(sums[r][v], pair, weights[v]);
        }
    }
}

// Scores in units of log2(e) / sqrt(D), those of tokens that the query may not see far below all others.
inline void mask(__m512 (&scores)[4], int first, int last) {
    if (last >= kTokens - 1 && first <= 0) return;
    for (int v = 0; v < 4; ++v) {
        const __m512i token = _mm512_add_epi32(
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(16 * v));
        const __mmask16 seen = _mm512_cmple_epi32_mask(token, _mm512_set1_epi32(last))
                               & _mm512_cmpge_epi32_mask(token, _mm512_set1_epi32(first));
        scores[v] = _mm512_mask_mov_ps(_mm512_set1_ps(kLowest), seen, scores[v]);
    }
}

// One step of a running softmax: scores to weights, and what the sums so far must be multiplied by.
template <int R>
inline void soften(
    __m512 (&scores)[R][4], const Work& work, int query, int start, State& state, int at, bf16 (*weights)[kTokens],
    float (&decay)[16]) {
    constexpr __mmask16 rows = (1u << R) - 1;
    const __m512 unit = _mm512_set1_ps(kLog2e / std::sqrt(static_cast<float>(work.model.head_dim)));
    alignas(64) float largest[16], totals[16];
    for (int r = 0; r < R; ++r) {
        for (int v = 0; v < 4; ++v) scores[r][v] = _mm512_mul_ps(scores[r][v], unit);
        mask(scores[r], work.earliest(query + r) - start, work.position(query + r) - start);
        largest[r] = _mm512_reduce_max_ps(_mm512_max_ps(
            _mm512_max_ps(scores[r][0], scores[r][1]), _mm512_max_ps(scores[r][2], scores[r][3])));
    }
    const __m512 before = _mm512_maskz_loadu_ps(rows, state.largest + at);
    const __m512 now = _mm512_max_ps(before, _mm512_maskz_load_ps(rows, largest));
    const __m512 kept = exp2_of(_mm512_sub_ps(before, now));
    _mm512_store_ps(largest, now);
    _mm512_storeu_ps(decay, kept);
    for (int r = 0; r < R; ++r) {
        __m512 sum = _mm512_setzero_ps();
        for (int v = 0; v < 4; ++v) {
            const __m512 weight = exp2_of(_mm512_sub_ps(scores[r][v], _mm512_set1_ps(largest[r])));
            sum = _mm512_add_ps(sum, weight);
            store16(weights[r] + 16 * v, weight);
        }
        totals[r] = _mm512_reduce_add_ps(sum);
    }
    const __m512 total = _mm512_fmadd_ps(
        _mm512_maskz_loadu_ps(rows, state.total + at), kept, _mm512_maskz_load_ps(rows, totals));
    _mm512_mask_storeu_ps(state.total + at, rows, total);
    _mm512_mask_storeu_ps(state.largest + at, rows, now);
}

template <int R, int V>
inline void add_values(State& state, int at, const float (&decay)[16], const bf16 (*weights)[kTokens], const Tile& tile, int D, int d) {
    __m512 sums[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v)
            sums[r][v] = _mm512_mul_ps(_mm512_load_ps(&state.out[(at + r) * D + d + 16 * v]), _mm512_set1_ps(decay[r]));
    add_products(sums, weights[0], kTokens, tile.values + 2 * d, 2 * D, kTokens / 2);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) _mm512_store_ps(&state.out[(at + r) * D + d + 16 * v], sums[r][v]);
}

// R queries of one head meet a tile.
template <int R>
void meet(const Work& work, int at, int start, const Tile& tile, State& state) {
    const int D = work.model.head_dim;
    alignas(64) bf16 weights[R][kTokens];
    float decay[16];
    __m512 scores[R][4];
    for (auto& row : scores)
        for (auto& v : row) v = _mm512_setzero_ps();
    add_products(scores, state.query + at * D, D, tile.keys, 2 * kTokens, D / 2);
    soften(scores, work, work.first + at, start, state, at, weights, decay);
    int d = 0;
    for (; d + 64 <= D; d += 64) add_values<R, 4>(state, at, decay, weights, tile, D, d);
    for (; d < D; d += 32) add_values<R, 2>(state, at, decay, weights, tile, D, d);
}

void meet_all(const Work& work, int start, const Tile& tile, State& state) {
    for (int at = 0; at < work.count; at += kRows) {
        const int rows = std::min(kRows, work.count - at);
        if (work.position(work.first + at + rows - 1) < start) continue;
        if (work.earliest(work.first + at) >= start + kTokens) continue;
        switch (rows) {
            case 1: meet<1>(work, at, start, tile, state); break;
            case 2: meet<2>(work, at, start, tile, state); break;
            case 3: meet<3>(work, at, start, tile, state); break;
            case 4: meet<4>(work, at, start, tile, state); break;
            case 5: meet<5>(work, at, start, tile, state); break;
            default: meet<6>(work, at, start, tile, state); break;
        }
    }
}

void reset(const Work& work, const Workspace& space, int head, State& state) {
    const int H = work.model.num_heads, D = work.model.head_dim;
    for (int i = 0; i < work.count; ++i) {
        const bf16* query = space.query + (long(work.chunk.first_row + work.first + i) * H + head) * D;
        std::memcpy(state.query + i * D, query, sizeof(bf16) * D);
        std::memset(state.out + i * D, 0, sizeof(float) * D);
        state.largest[i] = kLowest;
        state.total[i] = 0;
    }
}

void finish(const Work& work, const Workspace& space, int head, const State& state) {
    const int H = work.model.num_heads, D = work.model.head_dim;
    for (int i = 0; i < work.count; ++i) {
        const __m512 factor = _mm512_set1_ps(1.0f / state.total[i]);
        bf16* out = space.attention + (long(work.chunk.first_row + work.first + i) * H + head) * D;
        for (int d = 0; d < D; d += 16) store16(out + d, _mm512_mul_ps(_mm512_load_ps(&state.out[i * D + d]), factor));
    }
}

// A block of queries of every query head that reads one kv head.
void attend_block(const Work& work, const Plane& keys, const Plane& values, const Workspace& space) {
    const int group = work.model.num_heads / work.model.num_kv_heads;
    static thread_local Tile tile;
    static thread_local State states[kMostGroup];
    for (int g = 0; g < group; ++g) reset(work, space, work.kv_head * group + g, states[g]);
    const int end = work.position(work.first + work.count - 1) + 1;
    for (int start = work.earliest(work.first) / kTokens * kTokens; start < end; start += kTokens) {
        fill(work, keys, values, start, end, tile);
        for (int g = 0; g < group; ++g) meet_all(work, start, tile, states[g]);
    }
    for (int g = 0; g < group; ++g) finish(work, space, work.kv_head * group + g, states[g]);
}

}  // namespace

void attend_prefill(Team& team, const Model& model, int layer, const KV& kv, const Batch& batch, const Workspace& space) {
    const Plane keys = plane_of(kv, model, layer, false), values = plane_of(kv, model, layer, true);
    for (int c = 0; c < batch.num_chunks; ++c) {
        const Chunk& chunk = batch.chunks[c];
        const int blocks = (chunk.num_tokens + kQueries - 1) / kQueries;
        team.share(long(blocks) * model.num_kv_heads, [&](long i) {
            const int block = blocks - 1 - static_cast<int>(i / model.num_kv_heads);  // the longest first
            const int first = block * kQueries;
            attend_block(
                {model, chunk, model.layers[layer].window, static_cast<int>(i % model.num_kv_heads), first,
                 std::min(kQueries, chunk.num_tokens - first)},
                keys, values, space);
        });
    }
}

}  // namespace tokenworks
