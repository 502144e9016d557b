// Where a layer's keys and values lie, and how one head of one token is written.
#pragma once

#include <cstring>

#include "api.h"
#include "simd.h"

namespace tokenworks {

// Keys or values of one layer: head (slot, k) is at index slot * K + k.
struct Plane {
    char* data;
    float* scales;  // null: bf16
    int num_kv_heads, head_dim;

    long at(long slot, int head) const { return slot * num_kv_heads + head; }
    long head_bytes() const { return scales ? head_dim : 2L * head_dim; }
    bf16* wide(long head) const { return reinterpret_cast<bf16*>(data + head * head_bytes()); }
    int8_t* codes(long head) const { return reinterpret_cast<int8_t*>(data + head * head_bytes()); }
};

inline Plane plane_of(const KV& kv, const Model& model, int layer, bool is_value) {
    const long heads = kv.num_slots * model.num_kv_heads * (2L * layer + is_value);
    const int size = kv.scales ? 1 : 2;
    return {static_cast<char*>(kv.data) + heads * model.head_dim * size, kv.scales ? kv.scales + heads : nullptr,
            model.num_kv_heads, model.head_dim};
}

constexpr float kLeast = 1e-30f;  // a head that stays below is stored as zeros: its scale would leave float32

// Writes a head given in float32. int8: scale = largest / 127, rounded to nearest, ties to even.
inline void write_head(const Plane& plane, long head, const float* x) {
    const int width = plane.head_dim;
    if (!plane.scales) {
        for (int i = 0; i < width; i += 16) store16(plane.wide(head) + i, _mm512_loadu_ps(x + i));
        return;
    }
    __m512 largest = _mm512_setzero_ps();
    for (int i = 0; i < width; i += 16) largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
    const float most = _mm512_reduce_max_ps(largest);
    const __m512 factor = _mm512_set1_ps(most < kLeast ? 0.0f : 127.0f / most);
    for (int i = 0; i < width; i += 16)
        _mm_storeu_si128(
            reinterpret_cast<__m128i*>(plane.codes(head) + i),
            _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), factor))));
    plane.scales[head] = most < kLeast ? 0.0f : most / 127.0f;
}

// 32 codes as bf16, exactly: their scale is left to the reader.
inline __m512i widened(const int8_t* codes) {
    const __m128i* at = reinterpret_cast<const __m128i*>(codes);
    const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at)));
    const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at + 1)));
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// 32 values of a head as 32 bf16.
inline __m512i read_pairs(const Plane& plane, long head, int i) {
    if (!plane.scales) return load_pairs(plane.wide(head) + i);
    const __m512 scale = _mm512_set1_ps(plane.scales[head]);
    const __m128i* codes = reinterpret_cast<const __m128i*>(plane.codes(head) + i);
    const __m512 low = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes))), scale);
    const __m512 high = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes + 1))), scale);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

}  // namespace tokenworks
