#include <cstdint>

#include "simd.h"
#include "team.h"

using namespace tokenworks;

extern "C" {

// Reads memory in order, each thread a part of its own, and does nothing else: what any kernel's reading can at most reach.
int64_t tw_read(const char* data, int64_t bytes, int32_t num_threads) {
    std::atomic<int64_t> total{0};
    run_team(num_threads, [&](Team& team) {
        team.split(bytes / 256, [&](long begin, long end) {
            __m512i sums[4] = {};
            for (long i = begin; i < end; ++i)
                for (int v = 0; v < 4; ++v)
                    sums[v] = _mm512_xor_si512(sums[v], _mm512_loadu_si512(data + 256 * i + 64 * v));
            const __m512i all = _mm512_xor_si512(_mm512_xor_si512(sums[0], sums[1]), _mm512_xor_si512(sums[2], sums[3]));
            total += _mm512_reduce_add_epi64(all);
        });
    });
    return total;
}

}
