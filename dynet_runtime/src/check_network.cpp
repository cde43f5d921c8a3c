// What a file must hold to before anything of it is run: a network that reads nothing outside of its values and arrays.
#include "layout.h"
#include "read_network.h"

namespace {

constexpr int64_t MOST_ELEMENTS = 1 << 30;  // of a kernel, which may be fused for each image

enum class What { NOTHING, MAP, VECTOR, COEFFICIENTS };

struct Known {  // of a value
  What what = What::NOTHING;
  int64_t channels = 0;  // of coefficients the features
  int packed = 1;        // channels in an element of a map
  int group_size = 0;    // of coefficients
};

class Checks {
 public:
  explicit Checks(Network& network) : network_(network), values_(network.values) {
    const int packed = network.packed;
    if (packed == 3) damaged("elements of three channels");
    values_[0] = {What::MAP, 3, packed};
  }

  void all() {
    for (Node& node : network_.nodes) {
      node_ = &node;
      check(node);
    }
    node_ = nullptr;
    const Known& result = known(network_.result);
    const bool floats = result.what == What::MAP && result.packed == 1;
    require(network_.result > 0 && (floats || result.what == What::VECTOR), "the result is neither a map of floats nor a vector");
    require(network_.classes.size() <= static_cast<uint64_t>(result.channels), "there are more names than classes");
    network_.outputs = static_cast<int32_t>(result.channels), network_.result_is_map = floats;
  }

 private:
  void require(bool holds, const char* otherwise) const {
    if (!holds) damaged((node_ ? node_->name + ": " : std::string()) + otherwise);
  }

  const Known& known(int value) const {
    require(value >= 0 && value < network_.values && values_[value].what != What::NOTHING, "a value that is not there yet");
    return values_[value];
  }

  const Known& map(int value) const {
    require(known(value).what == What::MAP, "a value that is no map");
    return values_[value];
  }

  void define(int value, Known what) {
    require(value > 0 && value < network_.values && values_[value].what == What::NOTHING, "a value that cannot be its result");
    values_[value] = what;
  }

  void size(const Array& array, int64_t bytes) const {
    require(array.bytes == static_cast<uint64_t>(bytes), "an array that is of another size than it has to be");
  }

  void check(Node& node) {
    switch (node.kind) {
      case Kind::CONVOLUTION: return convolution(node);
      case Kind::QUAD_CONVOLUTION: return quad_convolution(node);
      case Kind::PREDICTOR: return predictor(node);
      case Kind::DENSE:
        require(known(node.inputs[0]).what == What::VECTOR, "a value that is no vector");
        linear(node.output, known(node.inputs[0]).channels);
        return define(node.outputs[0], {What::VECTOR, node.output.c_out});
      case Kind::MEAN:
        require(known(node.inputs[0]).what != What::COEFFICIENTS, "coefficients have no mean");
        return define(node.outputs[0], {What::VECTOR, known(node.inputs[0]).channels});
      case Kind::ELEMENTWISE: return elementwise(node);
      case Kind::MAX_POOL: return max_pool(node);
      case Kind::CHANNELS: return channels(node);
    }
  }

  // What convolutions of both kinds have.
  void common(Node& node, int packed) {
    const Geometry& g = node.geometry;
    require(g.groups > 0 && g.c_in > 0 && g.c_out > 0 && g.c_in % g.groups == 0 && g.c_out % g.groups == 0,
            "groups that do not divide its channels");
    require(g.activation <= HARD_SWISH, "an activation that no convolution has");
    require(static_cast<int64_t>(g.kernel[0]) * g.kernel[1] <= MAX_TAPS, "a window of too many positions");
    const Known& x = map(node.inputs[0]);
    const bool filled_up = node.inputs[0] == 0 && packed == 2 && g.c_in == 4;  // the image in pairs of channels
    require((x.channels == g.c_in || filled_up) && x.packed == packed, "a map of another kind than it reads");
    require((node.coefficients >= 0) == (node.group_size > 0), "a bank without coefficients, or the reverse");
    if (node.group_size > 0) {
      const Known& coefficients = known(node.coefficients);
      require(coefficients.what == What::COEFFICIENTS && coefficients.group_size == node.group_size, "other coefficients");
      require(coefficients.channels == 1 || coefficients.channels == g.c_out, "coefficients of other channels");
      node.shared = coefficients.channels == 1;
    } else {
      node.coefficients = -1;
    }
    if (node.residual < 0) node.residual = -1;
    else require(map(node.residual).channels == g.c_out, "a residual of other channels");
  }

  void scales_of_bank(const Node& node) {
    if (node.group_size > 0) size(node.scales, node.storage == INT8 ? 4ll * node.group_size * node.geometry.c_out : 0);
  }

  void convolution(Node& node) {
    const Geometry& g = node.geometry;
    const int packed = node.mode == SINGLE ? 1 : 2;
    common(node, packed);
    require(node.residual < 0 || map(node.residual).packed == packed, "a residual of other elements");
    require(node.group_size > 0 || node.storage == FLOAT32, "a static kernel that is stored in less");
    if (packed == 2) require(network_.packed == 2 && g.c_out % 2 == 0, "pairs where there are none");
    const int inputs = g.c_in / g.groups, outputs = g.c_out / g.groups;
    if (node.mode == PAIRS) require(inputs % 2 == 0 && outputs % 2 == 0, "odd numbers of channels in pairs");
    if (node.mode == APART) require(inputs == 1 && outputs == 1, "pairs apart that are not depthwise");
    const bool rounded = node.mode == PAIRS && node.group_size == 0;
    const Panels panels = panels_of(node);
    require(panels.elements < MOST_ELEMENTS, "a kernel that is too large");
    size(node.weights, panels.weights * (rounded ? 2 : bytes_of(node.storage)));
    scales_of_bank(node);
    if (node.group_size == 0) size(node.scales, 0);
    size(node.bias, 4ll * g.c_out);
    define(node.outputs[0], {What::MAP, g.c_out, packed});
  }

  void quad_convolution(Node& node) {
    common(node, 4);
    require(node.residual < 0 || map(node.residual).packed == 4, "a residual of other elements");
    constexpr int64_t MOST_WEIGHTS = INT32_MAX / (255 * 127);  // of an output, whose sum is of 32 bits
    const int64_t weights = static_cast<int64_t>(node.geometry.c_in / node.geometry.groups) * node.geometry.taps();
    require(weights <= MOST_WEIGHTS, "sums that are too large for 32 bits");
    const Rows rows = rows_of(node);
    require(rows.row < 1 << 28 && rows.outputs * rows.row < MOST_ELEMENTS, "a kernel that is too large");
    size(node.weights, rows.weights * (node.group_size ? bytes_of(node.storage) : 1));
    scales_of_bank(node);
    if (node.group_size == 0) size(node.scales, 4 * rows.outputs);
    size(node.bias, 4 * rows.outputs);
    define(node.outputs[0], {What::MAP, node.geometry.c_out, node.to_floats ? 1 : 4});
  }

  void linear(const LinearLayer& layer, int64_t inputs) const {
    constexpr int WIDE = 64;
    const int64_t outputs = rounded_up(layer.c_out, WIDE);
    require(layer.c_in == inputs, "a layer for another number of inputs");
    size(layer.weights, outputs * layer.c_in * bytes_of(layer.storage));
    size(layer.scales, layer.storage == INT8 ? 4 * outputs : 0);
    size(layer.bias, 4 * outputs);
  }

  void predictor(Node& node) {
    const Known& x = known(node.inputs[0]);
    require(x.what != What::COEFFICIENTS, "coefficients of coefficients");
    if (node.limits.data) size(node.limits, 8 * x.channels);
    if (node.hidden.c_out) linear(node.hidden, x.channels);
    linear(node.output, node.hidden.c_out ? node.hidden.c_out : x.channels);
    require(!node.outputs.empty() && node.outputs.size() == node.features.size(), "no coefficients");
    int64_t all = 0;
    for (size_t i = 0; i < node.outputs.size(); i++) {
      require(node.features[i] > 0, "coefficients of no features");
      all += static_cast<int64_t>(node.group_size) * node.features[i];
      define(node.outputs[i], {What::COEFFICIENTS, node.features[i], 1, node.group_size});
    }
    require(all == node.output.c_out, "another number of coefficients than of outputs");
  }

  void elementwise(Node& node) {
    const bool two = node.function < 0;
    require(node.inputs.size() == (two ? 2 : 1), "another number of inputs");
    const Known x = known(node.inputs[0]), &other = known(node.inputs.back());
    require(x.what != What::COEFFICIENTS && other.what != What::COEFFICIENTS, "coefficients as elements");
    require(x.what == What::MAP || other.what == What::VECTOR, "a map behind a vector");
    require(other.channels == x.channels, "values of different channels");
    const bool bytes = node.quads || x.packed == 4, is_map = x.what == What::MAP, both = other.what == What::MAP;
    require(!is_map || !node.quads || x.packed != 2, "bytes of pairs");
    require(!both || (bytes ? other.packed != 2 : other.packed == x.packed), "maps of different elements");
    define(node.outputs[0], {x.what, x.channels, is_map && bytes ? 4 : x.packed});
  }

  void max_pool(Node& node) {
    const Geometry& g = node.geometry;
    const Known x = map(node.inputs[0]);
    require(g.dilation[0] == 1 && g.dilation[1] == 1, "a dilated pooling");
    for (int axis = 0; axis < 2; axis++)
      require(std::max(g.padding[axis][0], g.padding[axis][1]) < g.kernel[axis], "windows that see nothing but padding");
    define(node.outputs[0], x);
  }

  void channels(Node& node) {
    require(!node.inputs.empty() && !node.sources.empty() && node.sources.size() % 2 == 0, "a choice of no channels");
    const Known first = known(node.inputs[0]);
    for (int input : node.inputs) {
      const Known& x = known(input);
      require(x.what == first.what && x.packed == first.packed && x.what != What::COEFFICIENTS, "inputs of different kinds");
    }
    for (size_t i = 0; i < node.sources.size(); i += 2) {
      const int input = node.sources[i], channel = node.sources[i + 1];
      require(input >= 0 && input < static_cast<int64_t>(node.inputs.size()), "a channel of no input");
      require(channel >= 0 && channel < known(node.inputs[input]).channels, "a channel that is not there");
    }
    const int64_t count = static_cast<int64_t>(node.sources.size()) / 2;
    require(count <= MOST_CHANNELS, "too many channels");
    require(first.what != What::MAP || first.packed != 2 || count % 2 == 0, "an odd number of channels in pairs");
    define(node.outputs[0], {first.what, count, first.packed});
  }

  Network& network_;
  std::vector<Known> values_;
  const Node* node_ = nullptr;
};

}  // namespace

void check_network(Network& network) { Checks(network).all(); }
