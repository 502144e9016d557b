#include <cmath>

#include "attention.h"
#include "kv.h"

namespace tokenworks {
namespace {

constexpr int kTile = 16;         // tokens whose scores fill a vector
constexpr int kTogether = 4;      // tokens whose values are added to the sums while those are in registers
constexpr int kMostTokens = 128;  // of a piece
constexpr int kMostHeads = 128;

inline int padded(int tokens) { return (tokens + kTile - 1) / kTile * kTile; }

// One layer's keys, or values, of a piece's tokens; past the last token, which is repeated, tiles are whole.
//
// Tokens are read one after the other with all their heads, as they lie in memory. Before a tile is computed with, it is
// fetched: one word of each of its lines is read, back to back. Memory answers many reads at once, but only those that
// the core has come to; in between arithmetic that is a token or two, and asking ahead by instructions gains nothing.
struct Run {
    const Plane& plane;
    const long* slots;
    int num_tokens;

    // Head k of a token as bf16: in place, or int8 codes (whole numbers: no scale yet) widened into `wide`.
    template <int P>
    const bf16* head(int token, int k, bf16* wide) const {
        const long at = plane.at(slots[token], k);
        if (!plane.scales) return reinterpret_cast<const bf16*>(plane.data) + at * 32 * P;
        for (int p = 0; p < P; ++p) _mm512_storeu_si512(wide + 32 * p, widened(plane.codes(at) + 32 * p));
        return wide;
    }

    // Reads one word of each line of a tile from `first` on.
    void fetch(int first) const {
        const long bytes = plane.head_bytes() * plane.num_kv_heads;
        for (int t = first; t < std::min(first + kTile, num_tokens); ++t) {
            const char* token = plane.data + plane.at(slots[t], 0) * plane.head_bytes();
            for (long i = 0; i < bytes; i += 64) static_cast<void>(*reinterpret_cast<const volatile char*>(token + i));
        }
    }

    // The scales of kv head k, one a token.
    void scales(int k, float (&to)[kMostTokens]) const {
        for (int t = 0; t < padded(num_tokens); ++t) to[t] = plane.scales ? plane.scales[plane.at(slots[t], k)] : 1.0f;
    }
};

// Per query head and token of a tile: 16 sums whose total is the product of query and key. P = D / 32.
template <int P>
void add_products(const Run& keys, int first, int group, const bf16* query, __m512 (*sums)[kTile]) {
    alignas(64) bf16 wide[32 * P];
    keys.fetch(first);
    for (int t = 0; t < kTile; ++t) {
        for (int k = 0; k < keys.plane.num_kv_heads; ++k) {
            const bf16* key = keys.head<P>(first + t, k, wide);
            __m512i parts[P];
            for (int p = 0; p < P; ++p) parts[p] = load_pairs(key + 32 * p);
            for (int h = k * group; h < (k + 1) * group; ++h) {
                __m512 sum = _mm512_setzero_ps();
                for (int p = 0; p < P; ++p) sum = dot_pairs(sum, parts[p], load_pairs(query + (h * P + p) * 32));
                sums[h][t] = sum;
            }
        }
    }
}

// out += the values of four tokens, weighted; within each 32 of D, `out` is in the order of unpacking.
template <int P>
void add_values(const Run& values, int first, int group, const bf16 (*weights)[kMostTokens], float* out) {
    alignas(64) bf16 wide[kTogether][32 * P];
    if (first % kTile == 0) values.fetch(first);
    for (int k = 0; k < values.plane.num_kv_heads; ++k) {
        const bf16* rows[kTogether];
        for (int t = 0; t < kTogether; ++t) rows[t] = values.head<P>(first + t, k, wide[t]);
        __m512i low[2][P], high[2][P];
        for (int i = 0; i < 2; ++i)
            for (int p = 0; p < P; ++p) {
                const __m512i a = load_pairs(rows[2 * i] + 32 * p), b = load_pairs(rows[2 * i + 1] + 32 * p);
                low[i][p] = _mm512_unpacklo_epi16(a, b);
                high[i][p] = _mm512_unpackhi_epi16(a, b);
            }
        for (int h = k * group; h < (k + 1) * group; ++h) {
            const __m512i early = broadcast_pair(weights[h] + first), late = broadcast_pair(weights[h] + first + 2);
            for (int p = 0; p < P; ++p) {
                float* to = out + (h * P + p) * 32;
                _mm512_storeu_ps(to, dot_pairs(dot_pairs(_mm512_loadu_ps(to), early, low[0][p]), late, low[1][p]));
                _mm512_storeu_ps(
                    to + 16, dot_pairs(dot_pairs(_mm512_loadu_ps(to + 16), early, high[0][p]), late, high[1][p]));
            }
        }
    }
}

__mmask16 valid_from(int t, int num_tokens) {
    return static_cast<__mmask16>(t + 16 <= num_tokens ? 0xffff : (1u << (num_tokens - t)) - 1);
}

// Scores to weights 2**(score - largest) times the values' scales, bf16, 0 past the end; largest and sum go to stats.
void soften(const float* scores, int num_tokens, const float* scales, bf16* weights, float* stats) {
    __m512 largest = _mm512_set1_ps(kLowest), total = _mm512_setzero_ps();
    for (int t = 0; t < num_tokens; t += kTile)
        largest = _mm512_mask_max_ps(largest, valid_from(t, num_tokens), largest, _mm512_loadu_ps(scores + t));
    stats[0] = _mm512_reduce_max_ps(largest);
    for (int t = 0; t < num_tokens; t += kTile) {
        const __m512 power = _mm512_sub_ps(_mm512_loadu_ps(scores + t), _mm512_set1_ps(stats[0]));
        const __m512 weight = _mm512_maskz_mov_ps(
            valid_from(t, num_tokens), exp2_of(_mm512_min_ps(power, _mm512_setzero_ps())));
        total = _mm512_add_ps(total, weight);
        store16(weights + t, _mm512_mul_ps(weight, _mm512_loadu_ps(scales + t)));
    }
    stats[1] = _mm512_reduce_add_ps(total);
}

// One piece of one row: partial softmax of every head. Keys, then values, each read once, token by token.
template <int P>
void attend_piece(const Model& model, const bf16* query, const Run& keys, const Run& values, float* out, float* stats) {
    const int H = model.num_heads, K = model.num_kv_heads, group = H / K, num_tokens = keys.num_tokens;
    alignas(64) static thread_local __m512 sums[kMostHeads][kTile];
    alignas(64) static thread_local float scores[kMostHeads][kMostTokens];
    alignas(64) static thread_local bf16 weights[kMostHeads][kMostTokens];
    alignas(64) float scales[kMostTokens];
    const __m512 unit = _mm512_set1_ps(kLog2e / std::sqrt(32.0f * P));
    for (int first = 0; first < num_tokens; first += kTile) {
        add_products<P>(keys, first, group, query, sums);
        for (int h = 0; h < H; ++h) _mm512_store_ps(scores[h] + first, _mm512_mul_ps(sums_of(sums[h]), unit));
    }
    for (int k = 0; k < K; ++k) {
        keys.scales(k, scales);
        if (keys.plane.scales)
            for (int h = k * group; h < (k + 1) * group; ++h)
                for (int t = 0; t < padded(num_tokens); ++t) scores[h][t] *= scales[t];
        values.scales(k, scales);
        for (int h = k * group; h < (k + 1) * group; ++h) soften(scores[h], num_tokens, scales, weights[h], stats + 2 * h);
    }
    std::memset(out, 0, sizeof(float) * H * 32 * P);
    for (int first = 0; first < num_tokens; first += kTogether) add_values<P>(values, first, group, weights, out);
}

using AttendPiece = void (*)(const Model&, const bf16*, const Run&, const Run&, float*, float*);

AttendPiece attend_piece_for(int head_dim) {
    static constexpr AttendPiece of[] = {
        attend_piece<1>, attend_piece<2>, attend_piece<3>, attend_piece<4>,
        attend_piece<5>, attend_piece<6>, attend_piece<7>, attend_piece<8>};
    return of[head_dim / 32 - 1];
}

void slots_of(const Batch& batch, const KV& kv, int row, int start, int end, long* slots) {
    const int32_t* table = batch.blocks + long(row) * batch.table_width;
    for (int t = 0; t < padded(end - start); ++t) {
        const int token = std::min(start + t, end - 1);
        slots[t] = long(table[token / kv.block_tokens]) * kv.block_tokens + token % kv.block_tokens;
    }
}

// Adds up a row's pieces for one head, and puts D back in order.
void merge(const Model& model, const Pieces& pieces, const Workspace& space, int row, int h) {
    const int H = model.num_heads, D = model.head_dim;
    const int begin = pieces.first_of[row], end = pieces.first_of[row + 1];
    const auto stats = [&](int i) { return space.partial_stats + (long(i) * H + h) * 2; };
    float largest = kLowest, total = 0;
    for (int i = begin; i < end; ++i) largest = std::max(largest, stats(i)[0]);
    for (int i = begin; i < end; ++i) total += std::exp2(stats(i)[0] - largest) * stats(i)[1];
    const __m512i front = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i back = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    bf16* out = space.attention + (long(row) * H + h) * D;
    for (int d = 0; d < D; d += 32) {
        __m512 low = _mm512_setzero_ps(), high = _mm512_setzero_ps();
        for (int i = begin; i < end; ++i) {
            const __m512 weight = _mm512_set1_ps(std::exp2(stats(i)[0] - largest) / total);
            const float* from = space.partial_values + (long(i) * H + h) * D + d;
            low = _mm512_fmadd_ps(weight, _mm512_loadu_ps(from), low);
            high = _mm512_fmadd_ps(weight, _mm512_loadu_ps(from + 16), high);
        }
        const __m512d a = _mm512_castps_pd(low), b = _mm512_castps_pd(high);
        store16(out + d, _mm512_castpd_ps(_mm512_permutex2var_pd(a, front, b)));
        store16(out + d + 16, _mm512_castpd_ps(_mm512_permutex2var_pd(a, back, b)));
    }
}

}  // namespace

void attend_decode(Team& team, const Model& model, int layer, const KV& kv, const Batch& batch, const Workspace& space) {
    const Pieces& pieces = batch.pieces[model.layers[layer].window_index];
    const long H = model.num_heads, row_size = H * model.head_dim;
    const Plane keys = plane_of(kv, model, layer, false), values = plane_of(kv, model, layer, true);
    const AttendPiece attend = attend_piece_for(model.head_dim);
    team.share(pieces.count, [&](long i) {
        long slots[kMostTokens];
        const int row = pieces.rows[i], num_tokens = pieces.ends[i] - pieces.starts[i];
        slots_of(batch, kv, row, pieces.starts[i], pieces.ends[i], slots);
        attend(
            model, space.query + row * row_size, {keys, slots, num_tokens}, {values, slots, num_tokens},
            space.partial_values + i * row_size, space.partial_stats + i * H * 2);
    });
    team.split(batch.num_decode_rows * H, [&](long begin, long end) {
        for (long i = begin; i < end; ++i)
            merge(model, pieces, space, static_cast<int>(i / H), static_cast<int>(i % H));
    });
}

}  // namespace tokenworks
