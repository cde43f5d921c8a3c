// A convolution, static or dynamic, shared out over threads in one of three ways.
#pragma once
#include "context.h"
#include "tiles.h"

struct Convolution : Operation {
  Geometry g;
  int x, y, coefficients, residual, kernel;  // values; kernel is the fused one, or -1
  int shared, group_size, storage, mode;
  const void* weights;  // a static kernel's panels, or the bank
  const float *scales, *bias;
  std::vector<Block> blocks;
  int64_t panels;  // elements
  Requantization requantization;  // of quads

  void shape(std::vector<Value>& values) const override {
    const Value& in = values[x];
    values[y].packed = channels_of(mode);
    values[y].scale = requantization.scale;
    values[y].shape_map(g.c_out, g.output(0, in.height), g.output(1, in.width));
    if (residual >= 0) values[y].check_size(values[residual]);
  }

  // Floats of the fused kernel: its panels, and where it is of whole numbers the steps and offsets of all outputs.
  int64_t kernel_floats() const { return panels + (reads_quads(mode) ? 2 * filled_up() : 0); }

  void fuse(Context& context, int block, int thread) const {
    const Block& b = blocks[block];
    const float* eta = context.values[coefficients].data;
    float* own = context.values[kernel].data;
    float* fused = reads_quads(mode) ? context.scratch_of(thread, b.size) : own + b.panel;
    auto with = [&](auto s, auto each) {
      fuse_block<decltype(s)::value, decltype(each)::value>(b, weights, scales, g.c_out, eta, shared, group_size, fused);
    };
    auto with_storage = [&](auto each) {
      if (storage == FLOAT32) with(std::integral_constant<int, FLOAT32>(), each);
      if (storage == BFLOAT16) with(std::integral_constant<int, BFLOAT16>(), each);
      if (storage == INT8) with(std::integral_constant<int, INT8>(), each);
    };
    if (weights_each(mode) == 4) with_storage(std::integral_constant<int, 4>());
    else if (mode == PAIRS) with_storage(std::integral_constant<int, 2>());
    else with_storage(std::integral_constant<int, 1>());
    if (reads_quads(mode)) round(b, fused, own);
  }

  void run(Context& context) const override {
    with_tile_activation(g.activation, [&](auto a) {
      constexpr int A = decltype(a)::value;
      if (mode == SINGLE) run_as<SINGLE, A>(context);
      if (mode == PAIRS) run_as<PAIRS, A>(context);
      if (mode == APART) run_as<APART, A>(context);
      if (mode == FLOATS_TO_QUADS) run_as<FLOATS_TO_QUADS, A>(context);
      if constexpr (A == NONE || A == HARD_SWISH) {  // others clip, as all quads do
        if (mode == QUADS) run_as<QUADS, A>(context);
        if (mode == QUADS_APART) run_as<QUADS_APART, A>(context);
        if (mode == QUADS_TO_FLOATS) run_as<QUADS_TO_FLOATS, A>(context);
      }
    });
  }

 private:
  // Parts of the channels that have inputs of their own; 1 if all have the same.
  int units() const {
    if (g.groups == 1) return 1;
    return reads_quads(mode) ? blocks.size() : mode == APART ? g.groups / 2 : g.groups;
  }

  int filled_up() const { return (g.c_out + 3) / 4 * 4; }

  struct Planes {
    int first, count;
  };

  // Planes that a block depends on. Groups of quads may share one at their border; weights of others' channels are zero.
  Planes planes_of(const Block& b) const {
    int inputs = g.c_in / g.groups, outputs = g.c_out / g.groups, last = std::min(b.first + b.width, g.c_out) - 1;
    if (mode == APART) return {b.first / 2, 1};
    int begin = b.first / outputs * inputs, end = (last / outputs + 1) * inputs, each = channels_in(mode);
    return {begin / each, (end + each - 1) / each - begin / each};
  }

  // Most planes that a block depends on.
  int input_planes() const {
    int most = 0;
    for (const Block& b : blocks) most = std::max(most, planes_of(b).count);
    return most;
  }

  void round(const Block& b, const float* fused, float* own) const {
    const Requantization& r = requantization;
    float steps[4], sums[4];
    if (mode == QUADS_APART) quantize<1>(b, fused, own + b.panel, steps, sums);
    else quantize<4>(b, fused, own + b.panel, steps, sums);
    for (int i = 0; i < b.width; i++) {
      float step = steps[i] * r.x.step;
      own[panels + b.first + i] = step * r.before;
      own[panels + filled_up() + b.first + i] = (bias[b.first + i] - step * r.x.zero * sums[i]) * r.before + r.zero_before;
    }
  }

  Task task(const Context& context, const Block& b) const {
    const Value &in = context.values[x], &out = context.values[y];
    const float* panel = kernel < 0 ? static_cast<const float*>(weights) : context.values[kernel].data;
    bool rounded = kernel >= 0 && reads_quads(mode);
    int64_t to = b.first / channels_of(mode) * out.plane;
    Planes inputs = planes_of(b);
    Task t;
    t.x = in.data + inputs.first * in.plane, t.plane = in.plane, t.inputs = inputs.count;
    t.panel = panel + b.panel, t.bias = (rounded ? panel + panels + filled_up() : bias) + b.first;
    t.steps = (rounded ? panel + panels : scales) + b.first, t.requantization = &requantization;
    t.residual = residual < 0 ? nullptr : context.values[residual].data + to;
    t.y = out.data + to, t.y_plane = out.plane, t.outputs = std::min(b.width, g.c_out - b.first);
    return t;
  }

  template <int P, int A> void run_as(Context& context) const {
    const Value& in = context.values[x];
    bool masks_fit = P != QUADS_APART && (!reads_quads(P) || requantization.x.zero == 0 || g.taps() == 1);  // they give zeros
    if constexpr (P != QUADS_APART) {
      if (g.in_place() && g.groups == 1) return run_pointwise<P, A>(context);
      if (masks_fit && g.keeps(in.height, in.width)) return run_masked<P, A>(context);
    }
    run_strips<P, A>(context);
  }

  // Blocks of channels by chunks of positions.
  template <int P, int A> void run_pointwise(Context& context) const {
    static constexpr int here[1] = {0};
    constexpr int CHUNK = 16 * tile_of(P);
    constexpr bool LONES = P == SINGLE || P == PAIRS;
    const Value &in = context.values[x], &out = context.values[y];
    int count = blocks.size(), chunks = (out.positions() + CHUNK - 1) / CHUNK, wanted = 4 * context.pool.threads();
    int parts = chunks >= wanted ? 1 : std::min(count, (wanted + chunks - 1) / chunks);
    int lones = LONES && out.positions() % LANES <= LONE ? out.positions() % LANES : 0;
    int size = (input_planes() * BLOCK + LONE_CHUNK - 1) / LONE_CHUNK * LONE_CHUNK;  // of a panel of BLOCK outputs
    context.pool.run(chunks * parts, [&](int number, int thread) {
      int64_t begin = static_cast<int64_t>(number / parts) * CHUNK, end = std::min(begin + CHUNK, out.positions());
      int part = number % parts, own = end == out.positions() ? lones : 0;
      float* repeated = context.scratch_of(thread, static_cast<int64_t>(own) * size);
      for (int i = 0; i < own; i++) repeat_inputs(in.data + end - own + i, in.plane, input_planes(), size, repeated + i * size);
      for (int block = part * count / parts; block < (part + 1) * count / parts; block++) {
        Task t = task(context, blocks[block]);
        t.offsets = here, t.taps = 1;
        bool apart = blocks[block].width == BLOCK;
        int64_t whole = apart ? end - own : end;
        with_width<P>(blocks[block].width, [&](auto m) { direct<P, decltype(m)::value, A, false>(t, begin, whole); });
        if constexpr (LONES)
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
      for (int block = part * count / parts; block < (part + 1) * count / parts; block++) {
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
    Strip s(g, rows, out.width);
    if (reads_quads(P)) s.padding = 0x01010101u * static_cast<uint32_t>(requantization.x.zero);
    bool own_inputs = units() > 1;
    int shares = own_inputs ? units() : static_cast<int>(blocks.size());  // that can be worked on apart
    const int most = input_planes();
    int64_t work = static_cast<int64_t>(rows) * out.width * most * g.taps() * g.c_out;
    int parts = std::max<int64_t>(1, std::min<int64_t>(shares, work / WORK));
    if (!own_inputs) parts = strips >= 3 * threads ? 1 : std::min(parts, (3 * threads + strips - 1) / strips);
    int per_share = blocks.size() / shares;
    context.pool.run(strips * parts, [&](int number, int thread) {
      int first = number / parts * rows, part = number % parts, count = std::min(rows, out.height - first);
      int64_t copied = static_cast<int64_t>(most) * s.plane + 64, apart = P == QUADS_APART ? 4 * s.plane : 0;
      float* padded = context.scratch_of(thread, copied + apart);
      for (int share = part * shares / parts; share < (part + 1) * shares / parts; share++) {
        bool copies = own_inputs || share == part * shares / parts;
        for (int block = share * per_share; block < (share + 1) * per_share; block++) {
          Task t = task(context, blocks[block]);
          for (int i = 0; copies && i < t.inputs; i++)
            s.copy(g, t.x + i * in.plane, in.height, in.width, first, count, padded + i * s.plane);
          copies = false;
          if (P == QUADS_APART) spread(padded, s.plane, padded + copied);
          t.x = P == QUADS_APART ? padded + copied : padded, t.plane = s.plane, t.offsets = s.offsets, t.taps = g.taps();
          with_width<P>(blocks[block].width, [&](auto m) { strip<P, decltype(m)::value, A>(t, s, first, count); });
        }
      }
    });
  }

  // A plane of quads as a plane of floats for each of the channels.
  static void spread(const float* quads, int64_t plane, float* to) {
    for (int64_t i = 0; i < plane; i += LANES)
      for (int channel = 0; channel < 4; channel++) store(to + channel * plane + i, channel_of(load(quads + i), channel));
  }
};
