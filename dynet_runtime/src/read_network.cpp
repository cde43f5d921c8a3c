#include "read_network.h"

#include <array>

namespace {

constexpr char MAGIC[8] = {'\x93', 'D', 'Y', 'N', 'E', 'T', '\r', '\n'};
constexpr uint64_t HEADER = 64, CHECKED_FROM = 16;

// CRC-32 as zlib and PNG have it, eight bytes at a time.
uint32_t crc32(const char* from, uint64_t bytes) {
  static const auto tables = [] {
    std::array<std::array<uint32_t, 256>, 8> t = {};
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
      t[0][i] = value;
    }
    for (uint32_t i = 0; i < 256; i++)
      for (int n = 1; n < 8; n++) t[n][i] = t[n - 1][i] >> 8 ^ t[0][t[n - 1][i] & 0xff];
    return t;
  }();
  uint32_t crc = ~0u;
  for (; bytes >= 8; bytes -= 8, from += 8) {
    uint64_t word;
    std::memcpy(&word, from, 8);
    word ^= crc;
    crc = 0;
    for (int n = 0; n < 8; n++) crc ^= tables[7 - n][word >> (8 * n) & 0xff];
  }
  for (; bytes; bytes--, from++) crc = crc >> 8 ^ tables[0][(crc ^ static_cast<uint8_t>(*from)) & 0xff];
  return ~crc;
}

struct Header {
  char magic[8];
  uint32_t version, crc;
  uint64_t bytes, words;
};

Header read_header(Content content) {
  Header header;
  static_assert(sizeof header == 32);
  if (content.bytes < HEADER || std::memcmp(content.begin, MAGIC, sizeof MAGIC))
    throw Failure(DYNET_DAMAGED, "this is no file of dynet export --format=native");
  std::memcpy(&header, content.begin, sizeof header);
  if (header.version != DYNET_FORMAT)
    throw Failure(DYNET_NEWER, "the file has version " + std::to_string(header.version) + " of the format, and this library reads " +
                                   std::to_string(DYNET_FORMAT) + "; install the library that belongs to its exporter");
  if (header.bytes != content.bytes)
    damaged("it has " + std::to_string(content.bytes) + " bytes instead of " + std::to_string(header.bytes));
  if (crc32(content.begin + CHECKED_FROM, content.bytes - CHECKED_FROM) != header.crc) damaged("its checksum is another one");
  if (header.words > (content.bytes - HEADER) / 4) damaged("its operations are longer than it");
  return header;
}

PreprocessingDescription read_preprocessing(Reader& reader) {
  PreprocessingDescription p;
  p.kind = reader.number(0, 2, "the kind of preprocessing");
  const int least = p.kind ? 1 : 0;
  p.height = reader.number(least, LARGEST_SIDE, "the height of images");
  p.width = reader.number(least, LARGEST_SIDE, "the width of images");
  p.resize_to = reader.number(p.kind == 1 ? 1 : 0, LARGEST_SIDE, "the size that images are resized to");
  for (int& side : p.window) side = reader.number(0, LARGEST_SIDE, "the size of windows");
  if (p.kind == 1 && p.height != p.width) damaged("the central part of images is no square");
  return p;
}

Geometry read_geometry(Reader& reader) {
  constexpr int REACH = 1 << 12;
  Geometry g;
  g.c_in = reader.number(0, MOST_CHANNELS, "the number of input channels");
  g.c_out = reader.number(0, MOST_CHANNELS, "the number of output channels");
  g.groups = reader.number(0, MOST_CHANNELS, "the number of groups");
  for (int& size : g.kernel) size = reader.number(1, REACH, "the size of a window");
  for (int& stride : g.strides) stride = reader.number(1, 64, "a stride");
  for (int& dilation : g.dilation) dilation = reader.number(1, REACH, "a dilation");
  g.same = reader.number(0, 1, "whether padding is SAME");
  for (auto& axis : g.padding)
    for (int& side : axis) side = reader.number(0, REACH, "padding");
  g.activation = reader.number(NONE, SILU, "an activation");
  for (int axis = 0; axis < 2; axis++) {
    if (static_cast<int64_t>(g.dilation[axis]) * (g.kernel[axis] - 1) >= REACH) damaged("a window is too large");
  }
  return g;
}

LinearLayer read_linear(Reader& reader) {
  constexpr int FEATURES = 1 << 24;
  LinearLayer layer;
  layer.c_in = reader.number(1, FEATURES, "the number of inputs");
  layer.c_out = reader.number(1, FEATURES, "the number of outputs");
  layer.storage = reader.number(FLOAT32, INT8, "the storage");
  layer.weights = reader.array(), layer.scales = reader.array(), layer.bias = reader.array();
  return layer;
}

void read_convolution(Reader& reader, Node& node) {
  node.geometry = read_geometry(reader);
  node.inputs = {reader.number()}, node.outputs = {reader.number()};
  node.coefficients = reader.number(), node.residual = reader.number();
  node.group_size = reader.number(0, MAX_GROUP_SIZE, "the number of kernels in a bank");
  node.storage = reader.number(FLOAT32, INT8, "the storage");
  node.weights = reader.array(), node.scales = reader.array(), node.bias = reader.array();
  if (node.kind == Kind::CONVOLUTION) {
    node.mode = reader.number(SINGLE, APART, "the mode of a convolution");
    return;
  }
  node.to_floats = reader.number(0, 1, "whether the result is of floats");
  node.padding = reader.word();
  Requantization& r = node.requantization;
  for (float* value : {&r.x.step, &r.x.zero, &r.scale.step, &r.scale.zero, &r.before, &r.zero_before, &r.residual_step,
                       &r.after, &r.zero_after, &r.least, &r.greatest})
    *value = reader.real();
}

void read_predictor(Reader& reader, Node& node) {
  node.inputs = {reader.number()};
  node.outputs = reader.numbers("coefficients"), node.features = reader.numbers("features");
  node.group_size = reader.number(1, MAX_GROUP_SIZE, "the number of kernels in a bank");
  node.softmax = reader.number(0, 1, "whether a softmax follows");
  node.limits = reader.array();
  if (reader.number(0, 1, "whether there is a hidden layer")) node.hidden = read_linear(reader);
  node.output = read_linear(reader);
}

void read_elementwise(Reader& reader, Node& node) {
  node.inputs = reader.numbers("inputs"), node.outputs = {reader.number()};
  node.function = reader.number(MULTIPLY, SILU, "a function of elements");
  node.quads = reader.number(0, 1, "whether the result is of bytes");
  node.scale.step = reader.real(), node.scale.zero = reader.real();
}

Node read_node(Reader& reader) {
  Node node;
  node.kind = static_cast<Kind>(reader.number(1, static_cast<int32_t>(Kind::CHANNELS), "the kind of an operation"));
  node.name = reader.text();
  switch (node.kind) {
    case Kind::CONVOLUTION:
    case Kind::QUAD_CONVOLUTION: read_convolution(reader, node); break;
    case Kind::PREDICTOR: read_predictor(reader, node); break;
    case Kind::DENSE:
      node.inputs = {reader.number()}, node.outputs = {reader.number()};
      node.function = reader.number(NONE, SILU, "an activation");
      node.output = read_linear(reader);
      break;
    case Kind::MEAN: node.inputs = {reader.number()}, node.outputs = {reader.number()}; break;
    case Kind::ELEMENTWISE: read_elementwise(reader, node); break;
    case Kind::MAX_POOL:
      node.geometry = read_geometry(reader);
      node.inputs = {reader.number()}, node.outputs = {reader.number()};
      break;
    case Kind::CHANNELS:
      node.inputs = reader.numbers("inputs"), node.outputs = {reader.number()};
      node.sources = reader.numbers("channels");
      break;
  }
  return node;
}

}  // namespace

Network read_network(Content content) {
  const Header header = read_header(content);
  Reader reader(content, HEADER, HEADER + 4 * header.words);
  Network network;
  network.name = reader.text();
  network.arithmetic = reader.number(FLOAT32, INT8, "the arithmetic");
  network.storage = reader.number(FLOAT32, INT8, "the storage");
  network.packed = reader.number(1, 4, "the number of channels in an element");
  for (float& mean : network.mean) mean = reader.real();
  for (float& std : network.std)
    if (std = reader.real(); !(std > 0)) damaged("a standard deviation of pixels is not positive");
  network.preprocessing = read_preprocessing(reader);
  network.classes.resize(reader.count(1, "classes"));
  for (std::string& name : network.classes) name = reader.text();
  network.values = reader.number(1, 1 << 20, "the number of values");
  network.result = reader.number();
  network.nodes.resize(reader.count(3, "operations"));
  for (Node& node : network.nodes) node = read_node(reader);
  if (!reader.at_end()) damaged("something follows its operations");
  check_network(network);
  return network;
}
