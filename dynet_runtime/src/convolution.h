// A convolution, static or dynamic, shared out over threads in one of three ways.
#pragma once
#include "context.h"
#include "tiles.h"

namespace DYNET_LEVEL {

struct Convolution : Fusing {
  Geometry g;
  int x, y, coefficients, residual;  // values; the last two may be -1: none
  int shared, group_size, storage, mode;
  const void* weights;  // a static kernel's panels, or the bank
  const float *scales, *bias;
  std::vector<Block> blocks;
  int64_t panels;  // elements

  void shape(std::vector<Value>& values) const override {
    const Value& in = values[x];
    if (mode == SINGLE) values[y].packed = 1;
    values[y].shape_map(g.c_out, g.output(0, in.height), g.output(1, in.width));
    if (residual >= 0) values[y].check_size(values[residual]);
  }

  // Without masked loads, taps outside of a map are read before they are dropped.
  int64_t reads_around(const std::vector<Value>& values) const override {
    const Value& in = values[x];
    return g.keeps(in.height, in.width) ? static_cast<int64_t>(g.reach(0)) * in.width + g.reach(1) : 0;
  }

  int fusions() const override { return blocks.size(); }
  int64_t kernel_floats() const override { return panels; }

  void fuse(Context& context, int block, int) const override {
    const float* eta = context.values[coefficients].data;
    float* panel = context.values[kernel].data;
    auto with = [&](auto s, auto paired) {
      constexpr int S = decltype(s)::value;
      fuse_block<S, decltype(paired)::value>(blocks[block], weights, scales, g.c_out, eta, shared, group_size, panel);
    };
    auto with_storage = [&](auto paired) {
      if (storage == FLOAT32) with(std::integral_constant<int, FLOAT32>(), paired);
      if (storage == BFLOAT16) with(std::integral_constant<int, BFLOAT16>(), paired);
      if (storage == INT8) with(std::integral_constant<int, INT8>(), paired);
    };
    if (mode == PAIRS) with_storage(std::true_type());
    else with_storage(std::false_type());
  }

  void run(Context& context) const override {
    with_tile_activation(g.activation, [&](auto a) {
      constexpr int A = decltype(a)::value;
      if (mode == SINGLE) run_as<SINGLE, A>(context);
      if (mode == PAIRS) run_as<PAIRS, A>(context);
      if (mode == APART) run_as<APART, A>(context);
    });
  }

 private:
  // Planes that an output channel depends on.
  int input_planes() const { return mode == APART ? 1 : g.c_in / g.groups / channels_of(mode); }
  // Parts of the channels that have inputs of their own; 1 if all have the same.
  int units() const { return mode == APART ? g.groups / 2 : g.groups; }

  Task task(const Context& context, const Block& b) const {
    const Value &in = context.values[x], &out = context.values[y];
    const float* panel = kernel < 0 ? static_cast<const float*>(weights) : context.values[kernel].data;
    int64_t to = b.first / channels_of(mode) * out.plane;
    int unit = b.first / (g.c_out / units());
    Task t;
    t.x = in.data + unit * input_planes() * in.plane, t.plane = in.plane, t.inputs = input_planes();
    t.panel = panel + b.panel, t.bias = bias + b.first;
    t.residual = residual < 0 ? nullptr : context.values[residual].data + to;
    t.y = out.data + to, t.y_plane = out.plane;
    return t;
  }

  template <int P, int A> void run_as(Context& context) const {
    const Value& in = context.values[x];
    if (g.in_place() && g.groups == 1) run_pointwise<P, A>(context);
    else if (g.keeps(in.height, in.width)) run_masked<P, A>(context);
    else run_strips<P, A>(context);
  }

  // Blocks of channels by chunks of positions.
  template <int P, int A> void run_pointwise(Context& context) const {
    static constexpr int here[1] = {0};
    constexpr int CHUNK = 64;
    const Value &in = context.values[x], &out = context.values[y];
    int count = blocks.size(), chunks = (out.positions() + CHUNK - 1) / CHUNK, wanted = 4 * context.pool.threads();
    int parts = chunks >= wanted ? 1 : std::min(count, (wanted + chunks - 1) / chunks);
    int lones = out.positions() % LANES <= LONE ? out.positions() % LANES : 0;
    int size = (input_planes() * BLOCK + LONE_CHUNK - 1) / LONE_CHUNK * LONE_CHUNK;  // of a panel of BLOCK outputs
    context.pool.run(chunks * parts, [&](int number, int thread) {
      int64_t begin = static_cast<int64_t>(number / parts) * CHUNK, end = std::min(begin + CHUNK, out.positions());
      int part = number % parts, own = end == out.positions() ? lones : 0;
      float* repeated = context.scratch_of(thread, static_cast<int64_t>(own) * size);
      for (int i = 0; i < own; i++) repeat_inputs(in.data + end - own + i, in.plane, input_planes(), size, repeated + i * size);
      const int end_block = begin_of_part(part + 1, count, parts);
      for (int block = begin_of_part(part, count, parts); block < end_block; block++) {
        Task t = task(context, blocks[block]);
        t.offsets = here, t.taps = 1;
        bool apart = blocks[block].width == BLOCK;
        int64_t whole = apart ? end - own : end;
        with_width<P>(blocks[block].width, [&](auto m) { direct<P, decltype(m)::value, A, false>(t, begin, whole); });
        for (int i = 0; apart && i < own; i++) lone<P, A>(t, repeated + i * size, size, end - own + i);
      }
    });
  }

  // The same, with masks for what is outside of the map.
  template <int P, int A> void run_masked(Context& context) const {
    constexpr int64_t WORK = 50000, CHUNK = 256;  // multiply-adds that are worth a task; positions that stay in a cache
    const Value &in = context.values[x], &out = context.values[y];
    const Masks& masks = context.masks(g, in.height, in.width);
    int count = blocks.size(), chunks = (out.positions() + CHUNK - 1) / CHUNK;
    int64_t work = out.positions() * input_planes() * g.taps() * g.c_out / chunks;
    int parts = std::max<int64_t>(1, std::min<int64_t>(count, work / WORK));
    context.pool.run(chunks * parts, [&](int number, int) {
      int64_t begin = number / parts * CHUNK, end = std::min(begin + CHUNK, out.positions());
      int part = number % parts;
      const int end_block = begin_of_part(part + 1, count, parts);
      for (int block = begin_of_part(part, count, parts); block < end_block; block++) {
        Task t = task(context, blocks[block]);
        t.offsets = masks.offsets.data(), t.taps = g.taps(), t.masks = masks.bits.data();
        with_width<P>(blocks[block].width, [&](auto m) { direct<P, decltype(m)::value, A, true>(t, begin, end); });
      }
    });
  }

  // Rows by blocks of channels, from padded copies.
  template <int P, int A> void run_strips(Context& context) const {
    constexpr int POSITIONS = 1024, WORK = 50000;  // of a strip; multiply-adds that are worth a task
    const Value &in = context.values[x], &out = context.values[y];
    int threads = context.pool.threads(), rows = std::max(1, std::min(out.height, POSITIONS / out.width));
    int strips = (out.height + rows - 1) / rows;
    rows = (out.height + strips - 1) / strips;
    strips = (out.height + rows - 1) / rows;
    const Strip s(g, rows, out.width);
    bool own_inputs = units() > 1;
    int shares = own_inputs ? units() : static_cast<int>(blocks.size());  // that can be worked on apart
    int64_t work = static_cast<int64_t>(rows) * out.width * input_planes() * g.taps() * g.c_out;
    int parts = std::max<int64_t>(1, std::min<int64_t>(shares, work / WORK));
    if (!own_inputs) parts = strips >= 3 * threads ? 1 : std::min(parts, (3 * threads + strips - 1) / strips);
    int per_share = blocks.size() / shares;
    context.pool.run(strips * parts, [&](int number, int thread) {
      int first = number / parts * rows, part = number % parts, count = std::min(rows, out.height - first);
      float* padded = context.scratch_of(thread, static_cast<int64_t>(input_planes()) * s.plane + 64);
      const int end_share = begin_of_part(part + 1, shares, parts);
      for (int share = begin_of_part(part, shares, parts); share < end_share; share++) {
        bool copies = own_inputs || share == begin_of_part(part, shares, parts);
        for (int block = share * per_share; block < (share + 1) * per_share; block++) {
          Task t = task(context, blocks[block]);
          for (int i = 0; copies && i < input_planes(); i++)
            s.copy(g, t.x + i * in.plane, in.height, in.width, first, count, padded + i * s.plane);
          copies = false;
          t.x = padded, t.plane = s.plane, t.offsets = s.offsets, t.taps = g.taps();
          with_width<P>(blocks[block].width, [&](auto m) { strip<P, decltype(m)::value, A>(t, s, first, count); });
        }
      }
    });
  }
};

}  // namespace DYNET_LEVEL
