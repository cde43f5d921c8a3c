// A convolution, static or dynamic, shared out over threads in one of three ways.
#pragma once
#include "context.h"
#include "tiles.h"

struct Convolution : Operation {
  Geometry g;
  int x, y, coefficients, residual, kernel;  // values; kernel is the fused one, or -1
  int shared, group_size, storage;
  const void* weights;  // a static kernel's panels, or the bank
  const float *scales, *bias;
  std::vector<Block> blocks;
  int64_t panels;  // floats

  bool shape(std::vector<Value>& values) const override {
    const Value& in = values[x];
    int height = g.output(0, in.height), width = g.output(1, in.width);
    if (height < 1 || width < 1) return false;
    values[y].shape(g.c_out, height, width);
    return true;
  }

  void fuse(const Context& context, int block, float* panel) const {
    const float* eta = context.values[coefficients].data;
    auto with = [&](auto s) {
      fuse_block<decltype(s)::value>(blocks[block], weights, scales, g.c_out, eta, shared, group_size, panel);
    };
    if (storage == FLOAT32) with(std::integral_constant<int, FLOAT32>());
    if (storage == BFLOAT16) with(std::integral_constant<int, BFLOAT16>());
    if (storage == INT8) with(std::integral_constant<int, INT8>());
  }

  void run(Context& context) const override {
    const Value &in = context.values[x], &out = context.values[y];
    const float* panel = kernel < 0 ? static_cast<const float*>(weights) : context.values[kernel].data;
    const float* add = residual < 0 ? nullptr : context.values[residual].data;
    with_tile_activation(g.activation, [&](auto a) {
      constexpr int A = decltype(a)::value;
      if (g.in_place() && g.groups == 1) run_pointwise<A>(context, in, out, panel, add);
      else if (g.keeps(in.height, in.width)) run_masked<A>(context, in, out, panel, add);
      else run_strips<A>(context, in, out, panel, add);
    });
  }

 private:
  Task task(const Value& in, const Value& out, const float* panel, const float* add, const Block& b) const {
    int64_t to = b.first * out.plane;
    return {in.data, in.plane, g.c_in, nullptr, 1, panel + b.panel, bias + b.first, nullptr, add ? add + to : nullptr,
            out.data + to, out.plane};
  }

  template <int A>
  void run_pointwise(Context& context, const Value& in, const Value& out, const float* panel, const float* add) const {
    static constexpr int here[1] = {0};
    constexpr int CHUNK = 64;
    int count = blocks.size(), chunks = (out.positions() + CHUNK - 1) / CHUNK, wanted = 4 * context.pool.threads();
    int parts = chunks >= wanted ? 1 : std::min(count, (wanted + chunks - 1) / chunks);
    int lones = out.positions() % LANES <= LONE ? out.positions() % LANES : 0;
    int size = (g.c_in * BLOCK + 47) / 48 * 48;  // of a panel of BLOCK outputs
    context.pool.run(chunks * parts, [&](int number, int thread) {
      int64_t begin = static_cast<int64_t>(number / parts) * CHUNK, end = std::min(begin + CHUNK, out.positions());
      int part = number % parts, first = part * count / parts, last = (part + 1) * count / parts;
      int own = end == out.positions() ? lones : 0;
      float* repeated = context.scratch_of(thread, static_cast<int64_t>(own) * size);
      for (int i = 0; i < own; i++) repeat_inputs(in.data + end - own + i, in.plane, g.c_in, size, repeated + i * size);
      for (int block = first; block < last; block++) {
        Task t = task(in, out, panel, add, blocks[block]);
        t.offsets = here;
        bool apart = blocks[block].width == BLOCK;
        int64_t whole = apart ? end - own : end;
        with_width(blocks[block].width, [&](auto m) { direct<decltype(m)::value, A, false>(t, begin, whole); });
        for (int i = 0; apart && i < own; i++) lone<A>(t, repeated + i * size, size, end - own + i);
      }
    });
  }

  // Blocks of channels by chunks of positions, with masks for what is outside of the map.
  template <int A>
  void run_masked(Context& context, const Value& in, const Value& out, const float* panel, const float* add) const {
    constexpr int64_t WORK = 50000, CHUNK = 256;  // multiply-adds that are worth a task; positions that stay in a cache
    const Masks& masks = context.masks(g, in.height, in.width);
    int inputs = g.c_in / g.groups, count = blocks.size(), chunks = (out.positions() + CHUNK - 1) / CHUNK;
    int64_t work = out.positions() * inputs * g.taps() * g.c_out / chunks;
    int parts = std::max<int64_t>(1, std::min<int64_t>(count, work / WORK));
    context.pool.run(chunks * parts, [&](int number, int) {
      int64_t begin = number / parts * CHUNK, end = std::min(begin + CHUNK, out.positions());
      int part = number % parts;
      for (int block = part * count / parts; block < (part + 1) * count / parts; block++) {
        Task t = task(in, out, panel, add, blocks[block]);
        int group = blocks[block].first / (g.c_out / g.groups);
        t.x += group * inputs * in.plane;
        t.inputs = inputs, t.offsets = masks.offsets.data(), t.taps = g.taps(), t.masks = masks.bits.data();
        with_width(blocks[block].width, [&](auto m) { direct<decltype(m)::value, A, true>(t, begin, end); });
      }
    });
  }

  // Rows by blocks of channels, from padded copies.
  template <int A>
  void run_strips(Context& context, const Value& in, const Value& out, const float* panel, const float* add) const {
    constexpr int POSITIONS = 1024, WORK = 50000;  // of a strip; multiply-adds that are worth a task
    int inputs = g.c_in / g.groups, threads = context.pool.threads();
    int rows = std::max(1, std::min(out.height, POSITIONS / out.width));
    int strips = (out.height + rows - 1) / rows;
    rows = (out.height + strips - 1) / strips;
    strips = (out.height + rows - 1) / rows;
    const Strip s(g, rows, out.width);
    int units = g.groups > 1 ? g.groups : static_cast<int>(blocks.size());  // that can be worked on apart
    int64_t work = static_cast<int64_t>(rows) * out.width * inputs * g.taps() * g.c_out;
    int parts = std::max<int64_t>(1, std::min<int64_t>(units, work / WORK));
    if (g.groups == 1) parts = strips >= 3 * threads ? 1 : std::min(parts, (3 * threads + strips - 1) / strips);
    int per_unit = blocks.size() / units;
    context.pool.run(strips * parts, [&](int number, int thread) {
      int first = number / parts * rows, part = number % parts, count = std::min(rows, out.height - first);
      float* padded = context.scratch_of(thread, static_cast<int64_t>(inputs) * s.plane + 64);
      for (int unit = part * units / parts; unit < (part + 1) * units / parts; unit++) {
        if (g.groups > 1 || unit == part * units / parts) {
          const float* from = in.data + (g.groups > 1 ? unit : 0) * inputs * in.plane;
          for (int i = 0; i < inputs; i++)
            s.copy(g, from + i * in.plane, in.height, in.width, first, count, padded + i * s.plane);
        }
        for (int block = unit * per_unit; block < (unit + 1) * per_unit; block++) {
          Task t = task(in, out, panel, add, blocks[block]);
          t.x = padded, t.plane = s.plane, t.inputs = inputs, t.offsets = s.offsets, t.taps = g.taps();
          with_width(blocks[block].width, [&](auto m) { strip<decltype(m)::value, A>(t, s, first, count); });
        }
      }
    });
  }
};
