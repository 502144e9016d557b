// One forward pass over the step's rows, on one team of threads from the first layer to the logits.

#include <iterator>

#include "attention.h"
#include "linear.h"
#include "moe.h"
#include "rows.h"

namespace tokenworks {
namespace {

class Step {
public:
    Step(Team& team, const Model& model, const KV& kv, const Batch& batch, const Workspace& space)
        : team_(team), model_(model), kv_(kv), batch_(batch), space_(space),
          codes_{space.codes, space.code_scales, space.code_sums}, is_single_(batch.num_rows == 1) {}

    void run(float* logits) {
        embed();
        for (int layer = 0; layer < model_.num_layers; ++layer) {
            attention(layer);
            feed_forward(model_.layers[layer]);
        }
        head(logits);
    }

    void run(Part part, int layer, float* logits) {
        const Layer& weights = model_.layers[layer];
        switch (part) {
            case kEmbed: return embed();
            case kInputNorm: return norm(weights.input_norm);
            case kAttention: return attend(layer);
            case kAddAndPostNorm: return add(), norm(weights.post_norm);
            case kGate: return gate();
            case kExperts: return apply_experts(team_, model_, weights, batch_.num_rows, space_);
            case kAdd: return add();
            case kHead: return head(logits);
        }
    }

private:
    template <class Element>
    void embed_row(const Element* table, long t) {
        const int width = model_.hidden;
        for (int i = 0; i < width; i += 16)
            _mm512_storeu_ps(space_.residual + t * width + i, load16(table + batch_.token_ids[t] * width + i));
    }

    void embed() {
        team_.split(batch_.num_rows, [&](long begin, long end) {
            for (long t = begin; t < end; ++t) switch (model_.embedding_kind) {
                case kBf16Table: embed_row(static_cast<const bf16*>(model_.embedding), t); break;
                case kFloatTable: embed_row(static_cast<const float*>(model_.embedding), t); break;
                case kHalfTable: embed_row(static_cast<const _Float16*>(model_.embedding), t); break;
            }
        });
    }

    void norm(const float* weight) {
        const int width = model_.hidden;
        team_.split(batch_.num_rows, [&](long begin, long end) {
            for (long t = begin; t < end; ++t)
                norm_row(space_.residual + t * width, weight, width, model_.eps, space_.normed + t * width);
        });
    }

    void add() {
        const int width = model_.hidden;
        team_.split(batch_.num_rows * width / 16, [&](long begin, long end) {
            for (long i = 16 * begin; i < 16 * end; i += 16)
                store16(space_.residual + i, _mm512_add_ps(load16(space_.residual + i), load16(space_.delta + i)));
        });
    }

    void gate() {
        const int width = model_.inner;
        team_.split(batch_.num_rows, [&](long begin, long end) {
            for (long t = begin; t < end; ++t)
                for (int i = 0; i < width; i += 16) {
                    const bf16* at = space_.gate_up + 2 * t * width + i;
                    store16(space_.inner + t * width + i, _mm512_mul_ps(silu(load16(at)), load16(at + width)));
                }
        });
    }

    void attend(int layer) {
        prepare_heads(team_, model_, layer, kv_, batch_, space_);
        if (batch_.num_decode_rows) attend_decode(team_, model_, layer, kv_, batch_, space_);
        attend_prefill(team_, model_, layer, kv_, batch_, space_);
    }

    // A step of one row: each thread makes the products' inputs for itself, in a place of its own. That takes less than
    // waiting for one thread to make them for all.
    Input own_input(const Linear& linear, const bf16* row) {
        return prepare_alone(linear, row, team_.index * kOwnRows, codes_);
    }

    Input input(const Linear& linear, const bf16* data, long rows) {
        return is_single_ ? own_input(linear, data) : prepare(team_, linear, data, linear.in, rows, codes_);
    }

    // The residual, normed, as the input of a product with `linear`.
    Input normed(const float* weight, const Linear& linear) {
        if (is_single_) {
            bf16* own = space_.normed + team_.index * kOwnRows * model_.hidden;
            norm_row(space_.residual, weight, model_.hidden, model_.eps, own);
            return own_input(linear, own);
        }
        norm(weight);
        return input(linear, space_.normed, batch_.num_rows);
    }

    Output residual() { return {Output::kAddFloat, space_.residual, model_.hidden, nullptr}; }

    void attention(int index) {
        const Layer& layer = model_.layers[index];
        multiply(
            team_, layer.qkv, normed(layer.input_norm, layer.qkv), batch_.num_rows,
            {Output::kStoreBf16, space_.qkv, layer.qkv.out, nullptr});
        attend(index);
        multiply(team_, layer.out, input(layer.out, space_.attention, batch_.num_rows), batch_.num_rows, residual());
    }

    void feed_forward(const Layer& layer) {
        if (layer.router) {
            norm(layer.post_norm);
            return apply_experts(team_, model_, layer, batch_.num_rows, space_);
        }
        multiply_gated(
            team_, layer.gate_up, normed(layer.post_norm, layer.gate_up), batch_.num_rows,
            {Output::kStoreBf16, space_.inner, model_.inner, nullptr});
        multiply(team_, layer.down, input(layer.down, space_.inner, batch_.num_rows), batch_.num_rows, residual());
    }

    void head(float* logits) {
        const int width = model_.hidden;
        const long rows = batch_.num_sampled;
        if (!rows) return;  // nothing but parts of prompts that go on
        const Linear& linear = model_.head;
        const Output output{Output::kStoreFloat, logits, linear.out, nullptr};
        if (is_single_) return multiply(team_, linear, normed(model_.final_norm, linear), rows, output);
        team_.split(rows, [&](long begin, long end) {
            for (long i = begin; i < end; ++i)
                norm_row(
                    space_.residual + batch_.sampled_rows[i] * width, model_.final_norm, width, model_.eps,
                    space_.normed + i * width);
        });
        multiply(team_, linear, input(linear, space_.normed, rows), rows, output);
    }

    Team& team_;
    const Model& model_;
    const KV& kv_;
    const Batch& batch_;
    const Workspace& space_;
    const CodeSpace codes_;
    const bool is_single_;
};

}  // namespace
}  // namespace tokenworks

using namespace tokenworks;

extern "C" {

void tw_struct_sizes(int64_t* sizes) {
    const int64_t all[] = {sizeof(Linear), sizeof(Layer), sizeof(Model), sizeof(KV),
                           sizeof(Pieces), sizeof(Chunk), sizeof(Batch), sizeof(Workspace)};
    std::copy(std::begin(all), std::end(all), sizes);
}

void tw_forward(
    const Model* model, const KV* kv, const Batch* batch, const Workspace* space, float* logits, int32_t num_threads) {
    run_team(num_threads, [&](Team& team) { Step(team, *model, *kv, *batch, *space).run(logits); });
}

void tw_part(
    const Model* model, const KV* kv, const Batch* batch, const Workspace* space, float* logits, int32_t part,
    int32_t layer, int32_t num_threads) {
    run_team(num_threads, [&](Team& team) {
        Step(team, *model, *kv, *batch, *space).run(static_cast<Part>(part), layer, logits);
    });
}

void tw_linear(
    const Linear* linear, const uint16_t* x, int64_t rows, uint16_t* out, const Workspace* space, int32_t num_threads) {
    run_team(num_threads, [&](Team& team) {
        const CodeSpace codes{space->codes, space->code_scales, space->code_sums};
        const Input input = prepare(team, *linear, x, linear->in, rows, codes);
        multiply(team, *linear, input, rows, {Output::kStoreBf16, out, linear->out, nullptr});
    });
}

void tw_heads(
    const Model* model, const KV* kv, const Batch* batch, const Workspace* space, int32_t layer, int32_t num_threads) {
    run_team(num_threads, [&](Team& team) { prepare_heads(team, *model, layer, *kv, *batch, *space); });
}

void tw_attend(
    const Model* model, const KV* kv, const Batch* batch, const Workspace* space, int32_t layer, int32_t num_threads) {
    run_team(num_threads, [&](Team& team) {
        if (batch->num_decode_rows) attend_decode(team, *model, layer, *kv, *batch, *space);
        attend_prefill(team, *model, layer, *kv, *batch, *space);
    });
}

}
