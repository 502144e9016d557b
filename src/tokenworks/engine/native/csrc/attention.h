// Attention of every row to its sequence's paged KV, which already holds the rows' own.
#pragma once

#include "api.h"
#include "team.h"

namespace tokenworks {

// Decode rows: the KV is read once, in the order in which it lies in memory. Each row's context is cut into pieces of fixed
// size; threads share them, each gives a partial softmax (maximum, sum, weighted values), and these are merged. The cut
// depends on the row alone, so that a row's result does not depend on who else is in the batch.
void attend_decode(Team& team, const Model& model, int layer, const KV& kv, const Batch& batch, const Workspace& space);

// Prefill chunks: tiles of 64 tokens of KV are laid out for the matrix instructions and meet blocks of queries, with a
// running softmax (arXiv 2205.14135), so that no matrix of scores is ever held.
void attend_prefill(Team& team, const Model& model, int layer, const KV& kv, const Batch& batch, const Workspace& space);

}  // namespace tokenworks
