// A network as its file describes it: what `reader.h` makes and checks, and the code for each processor level builds its
// operations from. Nothing here depends on the processor. docs/native_format.md describes every field.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "window.h"

constexpr int MAX_GROUP_SIZE = 16;
constexpr int LARGEST_SIDE = 1 << 15;  // of an image, in pixels
constexpr int MOST_CHANNELS = 1 << 20;  // of a map
constexpr int BLOCK = 6;  // output channels that are worked on together in floats

// How weights are stored that are read once per image: banks of kernels, and what predicts coefficients.
enum Storage : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

enum Activation : int32_t { NONE = 0, RELU = 1, RELU6 = 2, HARD_SWISH = 3, HARD_SIGMOID = 4, SIGMOID = 5, SILU = 6 };
enum Function : int32_t { ADD = -1, MULTIPLY = -2 };  // of elements; otherwise an Activation

// What an element of a map is, and how a convolution works on it.
enum Mode : int32_t {
  SINGLE = 0,  // floats
  PAIRS = 1,   // pairs of channels, multiplied and added at once; a row of a panel is a pair of inputs and a tap
  APART = 2,   // pairs of channels, each for itself: a depthwise convolution. Its panels are floats
};

// The scale and the zero point of a map of bytes: a byte q stands for (q - zero) * step.
struct Scale {
  float step = 1, zero = 0;
};

// How sums of integer products become bytes. Each output has a step that turns its sums into real numbers; they are in the
// unit of the result unless an activation comes between.
struct Requantization {
  Scale x, scale;  // of what is read, and of the result
  float before, zero_before;  // real numbers times the first, plus the second, are what the activation is given
  float residual_step;        // of its bytes, in the same units; its zero is in `zero_before`
  float after, zero_after;    // the same behind an activation; one that only clips has none
  float least, greatest;      // of the result's numbers
};

struct Array {
  const void* data = nullptr;  // in the file, at a multiple of 64 bytes from its beginning; null for none
  uint64_t bytes = 0;

  const float* floats() const { return static_cast<const float*>(data); }
};

struct LinearLayer {
  int32_t c_in = 0, c_out = 0, storage = FLOAT32;  // no c_out: there is none
  Array weights, scales, bias;
};

enum class Kind : uint32_t {
  CONVOLUTION = 1,
  QUAD_CONVOLUTION = 2,
  PREDICTOR = 3,
  DENSE = 4,
  MEAN = 5,
  ELEMENTWISE = 6,
  MAX_POOL = 7,
  CHANNELS = 8,
};

struct Node {
  Kind kind;
  std::string name;
  std::vector<int32_t> inputs, outputs;  // values; of a convolution x alone

  // Of convolutions and pools.
  Geometry geometry = {};
  int32_t coefficients = -1, residual = -1;  // values, or -1: none
  int32_t group_size = 0;                    // 0: a static kernel
  bool shared = false;                       // whether a kernel has one coefficient for all outputs
  int32_t storage = FLOAT32, mode = SINGLE;
  Array weights, scales, bias;
  bool to_floats = false;  // of bytes
  uint32_t padding = 0;
  Requantization requantization = {};

  // Of predictors and dense layers. The features are those of each output.
  std::vector<int32_t> features;
  bool softmax = false;
  Array limits;
  LinearLayer hidden, output;
  int32_t function = NONE;  // also of elements

  bool quads = false;  // whether elements become bytes, of this scale
  Scale scale;

  std::vector<int32_t> sources;  // of channels: pairs of an input and one of its channels
};

// From a picture to the images that the network takes.
struct PreprocessingDescription {
  int32_t kind = 0;  // 0: none; 1: the shorter side is resized and a square cut out; 2: resized to one size
  int32_t height = 0, width = 0, resize_to = 0;
  int32_t window[2] = {0, 0};
};

struct Network {
  std::string name;
  int32_t arithmetic = FLOAT32, storage = FLOAT32;
  int32_t packed = 1;  // channels in an element of the image, and of all maps for which an operation does not say it
  float mean[3] = {0, 0, 0}, std[3] = {1, 1, 1};
  PreprocessingDescription preprocessing;
  std::vector<std::string> classes;
  int32_t values = 0, result = 0, outputs = 0;
  bool result_is_map = false;
  std::vector<Node> nodes;
};
