#include <cmath>

#include "attention.h"
#include "kv.h"

namespace tokenworks {
namespace {

constexpr int kTile = 16;        // tokens whose scores fill a vector
constexpr int kMostTokens = 128; // of a piece
constexpr int kMostHeads = 128;
constexpr int kTogether = 2;     // query heads whose weighted values stay in registers

struct Piece {
    const bf16* query;  // [H, D]
    int num_tokens;
    long slots[kMostTokens + kTile];  // padded with the last one, so that whole tiles can be read
};

inline int padded(int tokens) { return (tokens + kTile - 1) / kTile * kTile; }

Piece piece_of(const Model& model, const KV& kv, const Batch& batch, const Workspace& space, const Pieces& pieces, long i) {
    const int row = pieces.rows[i], start = pieces.starts[i];
    const int32_t* table = batch.blocks + long(row) * batch.table_width;
    Piece piece;
    piece.query = space.query + long(row) * model.num_heads * model.head_dim;
    piece.num_tokens = pieces.ends[i] - start;
    for (int t = 0; t < padded(piece.num_tokens); ++t) {
        const int token = start + std::min(t, piece.num_tokens - 1);
        piece.slots[t] = long(table[token / kv.block_tokens]) * kv.block_tokens + token % kv.block_tokens;
    }
    return piece;
}

void prefetch_tile(const Plane& plane, const Piece& piece, int first, int head) {
    if (first >= padded(piece.num_tokens)) return;
    const int bytes = plane.head_dim * (plane.scales ? 1 : 2);
    for (int t = first; t < first + kTile; ++t)
        for (int line = 0; line < bytes; line += 64)
            _mm_prefetch(plane.data + plane.at(piece.slots[t], head) * bytes + line, _MM_HINT_T0);
}

// scores[h][t] = query h . key t, in units of log2(e) / sqrt(D)
void score(const Model& model, const Plane& keys, const Piece& piece, float (*scores)[kMostTokens]) {
    const int K = model.num_kv_heads, D = model.head_dim, group = model.num_heads / K;
    const __m512 unit = _mm512_set1_ps(kLog2e / std::sqrt(static_cast<float>(D)));
    for (int first = 0; first < piece.num_tokens; first += kTile)
        for (int k = 0; k < K; ++k) {
            prefetch_tile(keys, piece, first + kTile, k);
            for (int h = k * group; h < (k + 1) * group; ++h) {
                __m512 sums[kTile];
                for (int t = 0; t < kTile; ++t) {
                    const long head = keys.at(piece.slots[first + t], k);
                    __m512 sum = _mm512_setzero_ps();
                    for (int d = 0; d < D; d += 32)
                        sum = dot_pairs(sum, load_pairs(piece.query + h * D + d), read_pairs(keys, head, d));
                    sums[t] = sum;
                }
                _mm512_store_ps(scores[h] + first, _mm512_mul_ps(sums_of(sums), unit));
            }
        }
}

// Scores to weights 2**(score - largest), as bf16 and 0 past the end; largest and sum go to stats.
void soften(const float* scores, int num_tokens, bf16* weights, float* stats) {
    __m512 largest = _mm512_set1_ps(kLowest), total = _mm512_setzero_ps();
    const auto valid = [&](int t) { return static_cast<__mmask16>(t + 16 <= num_tokens ? 0xffff : (1u << (num_tokens - t)) - 1); };
    for (int t = 0; t < num_tokens; t += kTile)
        largest = _mm512_mask_max_ps(largest, valid(t), largest, _mm512_load_ps(scores + t));
    stats[0] = _mm512_reduce_max_ps(largest);
    for (int t = 0; t < num_tokens; t += kTile) {
        const __m512 power = _mm512_sub_ps(_mm512_load_ps(scores + t), _mm512_set1_ps(stats[0]));
        const __m512 weight = _mm512_maskz_mov_ps(valid(t), exp2_of(_mm512_min_ps(power, _mm512_setzero_ps())));
        total = _mm512_add_ps(total, weight);
        store16(weights + t, weight);
    }
    stats[1] = _mm512_reduce_add_ps(total);
}

template <int Heads>
void add_values(const Plane& values, const Piece& piece, int first, int k, const bf16 (*weights)[kMostTokens], float* out) {
    const int D = values.head_dim;
    for (int d = 0; d < D; d += 64) {
        const int vectors = std::min(64, D - d) / 32;
        __m512 sums[Heads][4];
        for (int h = 0; h < Heads; ++h)
            for (int v = 0; v < 2 * vectors; ++v) sums[h][v] = _mm512_loadu_ps(out + h * D + d + 16 * v);
        for (int t = first; t < first + kTile; t += 2) {
            const long a = values.at(piece.slots[t], k), b = values.at(piece.slots[t + 1], k);
            for (int v = 0; v < vectors; ++v) {
                const Interleaved pairs =
                    interleave(read_pairs(values, a, d + 32 * v), read_pairs(values, b, d + 32 * v));
                for (int h = 0; h < Heads; ++h) {
                    const __m512i weight = broadcast_pair(weights[h] + t);
                    sums[h][2 * v] = dot_pairs(sums[h][2 * v], weight, pairs.low);
                    sums[h][2 * v + 1] = dot_pairs(sums[h][2 * v + 1], weight, pairs.high);
                }
            }
        }
        for (int h = 0; h < Heads; ++h)
            for (int v = 0; v < 2 * vectors; ++v) _mm512_storeu_ps(out + h * D + d + 16 * v, sums[h][v]);
    }
}

// out[h] = sum of values weighted by weights[h]
void weigh(const Model& model, const Plane& values, const Piece& piece, const bf16 (*weights)[kMostTokens], float* out) {
    const int K = model.num_kv_heads, D = model.head_dim, group = model.num_heads / K;
    std::memset(out, 0, sizeof(float) * model.num_heads * D);
    for (int first = 0; first < piece.num_tokens; first += kTile)
        for (int k = 0; k < K; ++k) {
            prefetch_tile(values, piece, first + kTile, k);
            int h = k * group;
            for (; h + kTogether <= (k + 1) * group; h += kTogether)
                add_values<kTogether>(values, piece, first, k, weights + h, out + h * D);
            for (; h < (k + 1) * group; ++h) add_values<1>(values, piece, first, k, weights + h, out + h * D);
        }
}

void merge(const Model& model, const Pieces& pieces, const Workspace& space, int row, int h) {
    const int H = model.num_heads, D = model.head_dim;
    const int begin = pieces.first_of[row], end = pieces.first_of[row + 1];
    float largest = kLowest, total = 0;
    for (int i = begin; i < end; ++i) largest = std::max(largest, space.partial_stats[(long(i) * H + h) * 2]);
    float share[64];
    for (int d = 0; d < D; d += 64) {
        const int width = std::min(64, D - d);
        std::memset(share, 0, sizeof share);
        total = 0;
        for (int i = begin; i < end; ++i) {
            const float* stats = space.partial_stats + (long(i) * H + h) * 2;
            const float weight = std::exp2(stats[0] - largest);
            total += weight * stats[1];
            const float* from = space.partial_values + (long(i) * H + h) * D + d;
            for (int j = 0; j < width; ++j) share[j] += weight * from[j];
        }
        for (int j = 0; j < width; j += 16)
            store16(
                space.attention + (long(row) * H + h) * D + d + j,
                _mm512_div_ps(_mm512_loadu_ps(share + j), _mm512_set1_ps(total)));
    }
}

}  // namespace

void attend_decode(Team& team, const Model& model, int layer, const KV& kv, const Batch& batch, const Workspace& space) {
    const Pieces& pieces = batch.pieces[model.layers[layer].window_index];
    const int H = model.num_heads, D = model.head_dim;
    const Plane keys = plane_of(kv, model, layer, false), values = plane_of(kv, model, layer, true);
    team.share(pieces.count, [&](long i) {
        alignas(64) float scores[kMostHeads][kMostTokens];
        alignas(64) bf16 weights[kMostHeads][kMostTokens];
        const Piece piece = piece_of(model, kv, batch, space, pieces, i);
        score(model, keys, piece, scores);
        for (int h = 0; h < H; ++h)
            soften(scores[h], piece.num_tokens, weights[h], space.partial_stats + (i * H + h) * 2);
        weigh(model, values, piece, weights, space.partial_values + i * H * D);
    });
    team.split(long(batch.num_decode_rows) * H, [&](long begin, long end) {
        for (long i = begin; i < end; ++i)
            merge(model, pieces, space, static_cast<int>(i / H), static_cast<int>(i % H));
    });
}

}  // namespace tokenworks
