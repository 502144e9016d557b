// Mixture of experts: rows grouped by expert, each expert's two products over its own rows only.
#pragma once

#include "linear.h"

namespace tokenworks {

// residual += the chosen experts' outputs for the normed rows, weighted.
void apply_experts(Team& team, const Model& model, const Layer& layer, long rows, const Workspace& space);

}  // namespace tokenworks
