#include "moe.h"

#include <cmath>

namespace tokenworks {
namespace {

// Where rows grouped by expert lie: expert e has places first[e] .. first[e + 1]; place p is choice `choices[p]`, which is
// row * experts_per_token + rank.
struct Groups {
    int32_t* chosen;   // [rows * experts_per_token]
    int32_t* first;    // [num_experts + 1]
    int32_t* choices;  // [rows * experts_per_token]
    int32_t* rows;     // [rows * experts_per_token]: the row of each place
};

Groups groups_of(const Model& model, const Workspace& space, long rows) {
    const long places = rows * model.experts_per_token;
    int32_t* memory = space.routes;
    return {memory, memory + places, memory + places + model.num_experts + 1,
            memory + 2 * places + model.num_experts + 1};
}

// Router logits of one row, in float32 as in training.
void route_logits(const Model& model, const Layer& layer, const bf16* x, float* logits) {
    for (int e = 0; e < model.num_experts; ++e) {
        const float* weight = layer.router + long(e) * model.hidden;
        __m512 sum = _mm512_setzero_ps();
        for (int i = 0; i < model.hidden; i += 16) sum = _mm512_fmadd_ps(load16(x + i), _mm512_loadu_ps(weight + i), sum);
        logits[e] = _mm512_reduce_add_ps(sum);
    }
}

// The likeliest experts and their weights: softmax over all experts, of which the chosen are normalised where the model
// does so. (Softmax over the chosen alone, as Mixtral writes it, is the same as normalising.)
void choose(const Model& model, float* logits, int32_t* chosen, float* weights) {
    float largest = kLowest, total = 0, kept = 0;
    for (int e = 0; e < model.num_experts; ++e) largest = std::max(largest, logits[e]);
    for (int e = 0; e < model.num_experts; ++e) total += logits[e] = std::exp(logits[e] - largest);
    for (int rank = 0; rank < model.experts_per_token; ++rank) {
        const int best = static_cast<int>(std::max_element(logits, logits + model.num_experts) - logits);
        chosen[rank] = best;
        kept += weights[rank] = logits[best] / total;
        logits[best] = -1;
    }
    if (model.normalises_experts)
        for (int rank = 0; rank < model.experts_per_token; ++rank) weights[rank] /= kept;
}

// A counting sort of the choices by expert; within an expert, by row.
void group(const Model& model, long rows, const Groups& groups) {
    const int k = model.experts_per_token;
    std::fill(groups.first, groups.first + model.num_experts + 1, 0);
    for (long i = 0; i < rows * k; ++i) ++groups.first[groups.chosen[i] + 1];
    for (int e = 0; e < model.num_experts; ++e) groups.first[e + 1] += groups.first[e];
    for (long i = 0; i < rows * k; ++i) {
        const int32_t place = groups.first[groups.chosen[i]]++;
        groups.choices[place] = static_cast<int32_t>(i);
        groups.rows[place] = static_cast<int32_t>(i / k);
    }
    for (int e = model.num_experts; e > 0; --e) groups.first[e] = groups.first[e - 1];
    groups.first[0] = 0;
}

template <class Piece>
void share_experts(Team& team, const Model& model, const Groups& groups, long blocks, Piece&& piece) {
    team.share(model.num_experts * blocks, [&](long i) {
        const int e = static_cast<int>(i / blocks);
        const long rows = groups.first[e + 1] - groups.first[e];
        if (rows) piece(e, i % blocks, rows);
    });
}

}  // namespace

void apply_experts(Team& team, const Model& model, const Layer& layer, long rows, const Workspace& space) {
    const int k = model.experts_per_token, hidden = model.hidden, inner = layer.down_of[0].in;
    const Groups groups = groups_of(model, space, rows);
    team.split(rows, [&](long begin, long end) {
        for (long t = begin; t < end; ++t) {
            float* logits = space.router_logits + t * model.num_experts;
            route_logits(model, layer, space.normed + t * hidden, logits);
            choose(model, logits, groups.chosen + t * k, space.route_weights + t * k);
        }
    });
    if (team.index == 0) group(model, rows, groups);
    const CodeSpace codes{space.codes, space.code_scales, space.code_sums};
    const Input normed = prepare(team, layer.gate_up_of[0], space.normed, hidden, rows, codes);
    team.barrier();
    share_experts(team, model, groups, blocks_of(inner), [&](int e, long block, long count) {
        Input input = normed;
        input.index = groups.rows + groups.first[e];
        gated_block_of(
            layer.gate_up_of[e], input, block, 0, count,
            {Output::kStoreBf16, space.inner, inner, groups.choices + groups.first[e]});
    });
    const Input gated = prepare(team, layer.down_of[0], space.inner, inner, rows * k, codes);
    share_experts(team, model, groups, blocks_of(hidden), [&](int e, long block, long count) {
        Input input = gated;
        input.index = groups.choices + groups.first[e];
        block_of(
            layer.down_of[e], input, block, 0, count,
            {Output::kStoreFloat, space.expert_out, hidden, groups.choices + groups.first[e]});
    });
    team.split(rows, [&](long begin, long end) {
        for (long t = begin; t < end; ++t)
            for (int rank = 0; rank < k; ++rank) {
                const __m512 weight = _mm512_set1_ps(space.route_weights[t * k + rank]);
                float* to = space.residual + t * hidden;
                const float* from = space.expert_out + (t * k + rank) * hidden;
                for (int i = 0; i < hidden; i += 16)
                    _mm512_storeu_ps(
                        to + i, _mm512_fmadd_ps(weight, _mm512_loadu_ps(from + i), _mm512_loadu_ps(to + i)));
            }
    });
}

}  // namespace tokenworks
