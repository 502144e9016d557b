#include <cstring>

#include "linear.h"

using namespace tokenworks;

extern "C" {

// Quantised values [out, in] (int4: one a byte) to the blocked layout of linear.h, offset so that they are unsigned;
// `packed` has room for whole blocks of 64 outputs.
void tw_pack_quantized(const int8_t* values, int64_t out, int64_t in, int32_t bits, uint8_t* packed) {
    const int offset = 1 << (bits - 1);
#pragma omp parallel for
    for (int64_t block = 0; block < blocks_of(static_cast<int>(out)); ++block) {
        uint8_t* to = packed + block * kBlock * in * bits / 8;
        const auto code = [&](int64_t row, int64_t i) {
            return static_cast<uint8_t>((row < out ? values[row * in + i] : 0) + offset);
        };
        for (int64_t i = 0; i < in; i += 32 / bits)
            for (int64_t row = block * kBlock; row < (block + 1) * kBlock; ++row)
                for (int j = 0; j < 4; ++j)
                    *to++ = bits == 8 ? code(row, i + j) : static_cast<uint8_t>(code(row, i + j) | code(row, i + 4 + j) << 4);
    }
}

}
