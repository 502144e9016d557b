// What Python hands over: plain structs of sizes and pointers, mirrored field by field in native/library.py.
// Shape suffixes: T rows, H query heads, K kv heads, D head_dim. All memory is the caller's and outlives the call.
#pragma once

#include <cstdint>

extern "C" {

enum LinearKind : int32_t { kBf16 = 0, kInt8 = 1, kInt4 = 2 };

enum EmbeddingKind : int32_t { kBf16Table = 0, kFloatTable = 1, kHalfTable = 2 };

// y = x W^T + bias, W packed in blocks of 64 outputs (see linear.h).
struct Linear {
    int32_t kind, out, in, group;  // group: inputs that share a scale (quantised only)
    const void* weights;
    const void* scales;  // int8: float32, int4: float16, [out / 64, in / group, 64]
    const float* bias;   // [out] or null
};

struct Layer {
    const float *input_norm, *post_norm;  // [hidden]
    const float *query_norm, *key_norm;   // [D] or null
    Linear qkv, out;
    Linear gate_up, down;      // unused where there are experts
    const float* router;       // [num_experts, hidden] or null: a dense layer
    const Linear* gate_up_of;  // [num_experts]
    const Linear* down_of;     // [num_experts]
    int32_t window_index;      // of Batch::pieces
    int32_t window;            // last tokens attended to; 0 is all
};

struct Model {
    int32_t num_layers, hidden, inner, num_heads, num_kv_heads, head_dim;
    int32_t num_experts, experts_per_token, normalises_experts;
    int32_t embedding_kind;  // EmbeddingKind
    float eps;
    const void* embedding;    // [vocabulary, hidden], mapped from its file
    const float* rope;        // [positions, 2, D / 2]: cos, sin
    const float* final_norm;  // [hidden]
    const Layer* layers;
    Linear head;
};

// Keys, then values, of each layer: [layer, 2, slot, K, D]; int8 has a float32 scale for each [layer, 2, slot, K].
struct KV {
    void* data;
    float* scales;  // null: bf16
    int64_t num_slots;
    int32_t block_tokens;
};

// The decode rows' contexts, cut into pieces for threads to share; a row's pieces follow each other.
struct Pieces {
    int32_t count;
    const int32_t *rows, *starts, *ends;  // [count]
    const int32_t* first_of;              // [decode rows + 1]: a row's first piece
};

struct Chunk {  // several rows of one sequence (prefill)
    int32_t first_row, num_tokens, context_tokens;
    const int64_t* slots;  // [context_tokens + num_tokens]
};

struct Batch {
    int32_t num_rows, num_decode_rows, num_chunks, num_sampled, table_width;
    const int64_t *token_ids, *positions, *slots;  // [T]
    const int32_t* blocks;             // [decode rows, table_width]
    const Pieces* pieces;              // one for each distinct window
    const Chunk* chunks;
    const int64_t* sampled_rows;
};

// Rows of the workspace that each thread has for itself in a step of one row: T is at least threads * kOwnRows.
constexpr int kOwnRows = 8;

struct Workspace {
    float* residual;        // [T, hidden]
    uint16_t* normed;       // [T, hidden]
    uint16_t* qkv;          // [T, (H + 2 K) D]
    uint16_t* query;        // [T, H D]
    uint16_t* attention;    // [T, H D]
    uint16_t* inner;        // [T or T * experts_per_token, inner]
    int8_t* codes;          // [T * experts_per_token, widest input]: quantised activations
    float* code_scales;     // [T * experts_per_token, widest input / 32]
    int32_t* code_sums;     // the same
    float* partial_values;  // [most pieces, H D]
    float* partial_stats;   // [most pieces, H, 2]
    float* expert_out;      // [T, experts_per_token, hidden]
    float* router_logits;   // [T, num_experts]
    int32_t* routes;        // [T * experts_per_token]: chosen experts; then [num_experts + 1] and [T * experts_per_token]
    float* route_weights;   // [T, experts_per_token]
    const uint16_t* delta;    // [T, hidden]: given to kAddAndPostNorm and kAdd
    const uint16_t* gate_up;  // [T, 2 inner]: given to kGate
};

// The parts of a step between its products, for products that are computed elsewhere: what those gave is in
// Workspace::qkv, ::delta and ::gate_up.
enum Part : int32_t { kEmbed, kInputNorm, kAttention, kAddAndPostNorm, kGate, kExperts, kAdd, kHead };

void tw_part(
    const Model*, const KV*, const Batch*, const Workspace*, float* logits, int32_t part, int32_t layer,
    int32_t num_threads);
void tw_forward(const Model*, const KV*, const Batch*, const Workspace*, float* logits, int32_t num_threads);
void tw_linear(const Linear*, const uint16_t* x, int64_t rows, uint16_t* out, const Workspace*, int32_t num_threads);
void tw_attend(const Model*, const KV*, const Batch*, const Workspace*, int32_t layer, int32_t num_threads);
void tw_heads(const Model*, const KV*, const Batch*, const Workspace*, int32_t layer, int32_t num_threads);
int64_t tw_read(const char* data, int64_t bytes, int32_t num_threads);
void tw_struct_sizes(int64_t* sizes);  // of the eight structs above, in order
void tw_pack_quantized(const int8_t* values, int64_t out, int64_t in, int32_t bits, uint8_t* packed);
}
