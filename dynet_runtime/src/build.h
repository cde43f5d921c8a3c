// From a network as its file describes it to operations. Weights are read where they lie in the file, unless this level of
// instructions wants those of bytes in another order.
#pragma once
#include "convolution.h"
#include "engine.h"
#include "predictor.h"
#include "quad_convolution.h"
#include "small_operations.h"

namespace DYNET_LEVEL {

// Where no instruction multiplies unsigned by signed bytes (quads.h), the second and third weight of each quad change
// places, and those of a static kernel become 16-bit integers.
template <class To, class From> inline const void* reordered(Engine& engine, const Array& weights) {
  const size_t count = weights.bytes / sizeof(From);
  auto to = static_cast<To*>(engine.keep(count * sizeof(To)));
  auto from = static_cast<const From*>(weights.data);
  for (size_t i = 0; i < count; i += 4) to[i] = from[i], to[i + 1] = from[i + 2], to[i + 2] = from[i + 1], to[i + 3] = from[i + 3];
  return to;
}

inline const void* weights_of_quads(Engine& engine, const Node& node) {
  if (QUAD_WORDS == 1) return node.weights.data;
  if (node.group_size == 0) return reordered<int16_t, int8_t>(engine, node.weights);
  if (node.storage == FLOAT32) return reordered<uint32_t, uint32_t>(engine, node.weights);
  return reordered<uint16_t, uint16_t>(engine, node.weights);  // bfloat16, or bytes of two kernels
}

// Returns the offsets of a static kernel's sums. Where bytes of maps are multiplied as signed ones, 128 less than they are,
// 128 times the sum of the weights is missing.
inline const float* offsets_of_quads(Engine& engine, const Node& node, const Rows& rows) {
  if (BYTE_SHIFT == 0 || node.group_size != 0) return node.bias.floats();
  auto offsets = static_cast<float*>(engine.keep(rows.outputs * sizeof(float)));
  auto weights = static_cast<const int8_t*>(node.weights.data);
  for (int64_t o = 0; o < rows.outputs; o++) {
    const int32_t sum = std::accumulate(weights + o * rows.row, weights + (o + 1) * rows.row, 0);
    offsets[o] = node.bias.floats()[o] + node.scales.floats()[o] * (BYTE_SHIFT * sum);
  }
  return offsets;
}

inline Linear linear_of(const LinearLayer& layer) {
  Linear linear;
  linear.c_in = layer.c_in, linear.c_out = layer.c_out, linear.storage = layer.storage;
  linear.weights = layer.weights.data, linear.scales = layer.scales.floats(), linear.bias = layer.bias.floats();
  return linear;
}

template <class T> inline T* add(Engine& engine, const Node& node) {
  auto operation = std::make_unique<T>();
  operation->inputs.assign(node.inputs.begin(), node.inputs.end());
  operation->outputs.assign(node.outputs.begin(), node.outputs.end());
  T* pointer = operation.get();
  engine.operations.push_back(std::move(operation));
  return pointer;
}

// Returns a convolution of either kind. The predictor whose value its coefficients are has been added before.
template <class T> inline T* add_convolution(Engine& engine, const Node& node) {
  T* conv = add<T>(engine, node);
  conv->g = node.geometry;
  conv->x = node.inputs[0], conv->y = node.outputs[0], conv->coefficients = node.coefficients;
  conv->residual = node.residual, conv->shared = node.shared, conv->group_size = node.group_size;
  conv->storage = node.storage;
  conv->weights = node.weights.data, conv->scales = node.scales.floats(), conv->bias = node.bias.floats();
  if (node.residual >= 0) conv->inputs.push_back(node.residual);
  if (node.coefficients >= 0) {
    Predictor* predictor = engine.predictors.at(node.coefficients);
    conv->kernel = engine.values++;
    conv->inputs.push_back(conv->kernel);
    predictor->outputs.push_back(conv->kernel);
    predictor->convolutions.push_back(conv);
  }
  return conv;
}

inline void add_quad_convolution(Engine& engine, const Node& node) {
  auto conv = add_convolution<QuadConvolution>(engine, node);
  const Rows rows = rows_of(node);
  conv->to_floats = node.to_floats, conv->unit = rows.unit;
  conv->row = static_cast<int>(rows.row), conv->quads = static_cast<int>(rows.quads);
  conv->padding = node.padding, conv->requantization = node.requantization;
  conv->weights = weights_of_quads(engine, node), conv->bias = offsets_of_quads(engine, node, rows);
}

inline void add_predictor(Engine& engine, const Node& node) {
  auto predictor = add<Predictor>(engine, node);
  predictor->x = node.inputs[0], predictor->group_size = node.group_size, predictor->softmax = node.softmax;
  predictor->features.assign(node.features.begin(), node.features.end());
  if (node.hidden.c_out) predictor->hidden = linear_of(node.hidden);
  predictor->output = linear_of(node.output);
  const int c_in = node.hidden.c_out ? node.hidden.c_in : node.output.c_in;
  if (const float* limits = node.limits.floats()) {
    predictor->lower.assign(limits, limits + c_in);
    predictor->upper.assign(limits + c_in, limits + 2 * c_in);
  }
  for (int y : node.outputs) engine.predictors[y] = predictor;
}

inline void add_channels(Engine& engine, const Node& node) {
  auto channels = add<Channels>(engine, node);
  for (size_t i = 0; i < node.sources.size(); i += 2) channels->from.emplace_back(node.sources[i], node.sources[i + 1]);
}

inline void add_operation(Engine& engine, const Node& node) {
  switch (node.kind) {
    case Kind::CONVOLUTION: {
      auto conv = add_convolution<Convolution>(engine, node);
      Panels panels = panels_of(node);
      conv->mode = node.mode, conv->panels = panels.elements, conv->blocks = std::move(panels.blocks);
      return;
    }
    case Kind::QUAD_CONVOLUTION: return add_quad_convolution(engine, node);
    case Kind::PREDICTOR: return add_predictor(engine, node);
    case Kind::DENSE: {
      auto dense = add<Dense>(engine, node);
      dense->linear = linear_of(node.output), dense->activation = node.function;
      return;
    }
    case Kind::MEAN: add<Mean>(engine, node); return;
    case Kind::ELEMENTWISE: {
      auto elementwise = add<Elementwise>(engine, node);
      elementwise->function = node.function, elementwise->quads = node.quads, elementwise->scale = node.scale;
      return;
    }
    case Kind::MAX_POOL: add<MaxPool>(engine, node)->g = node.geometry; return;
    case Kind::CHANNELS: return add_channels(engine, node);
  }
}

}  // namespace DYNET_LEVEL
