// A static or dynamic convolution of maps of bytes.
#pragma once
#include "context.h"
#include "quad_tiles.h"
#include "rows.h"

namespace DYNET_LEVEL {

struct QuadConvolution : Fusing {
  Geometry g;
  int x, y, coefficients, residual;  // values; the last two may be -1: none
  int shared, group_size, storage, to_floats;
  const void* weights;         // rows of a static kernel, or of the bank
  const float *scales, *bias;  // of a static kernel the steps and offsets of its sums
  int row, quads, unit;        // see Rows in layout.h
  uint32_t padding;            // an element of it
  Requantization requantization;

  void shape(std::vector<Value>& values) const override {
    const Value& in = values[x];
    values[y].packed = to_floats ? 1 : 4;
    values[y].scale = requantization.scale;
    values[y].shape_map(g.c_out, g.output(0, in.height), g.output(1, in.width));
    if (residual >= 0) values[y].check_size(values[residual]);
  }

  int fusions() const override { return results(); }
  // A fused kernel consists of its rows, and of the steps and offsets of all outputs.
  int64_t kernel_floats() const override { return 4 * results() * (words() + 2); }

  void fuse(Context& context, int quad, int thread) const override {
    if (storage == FLOAT32) fuse_as<FLOAT32>(context, quad, thread);
    if (storage == BFLOAT16) fuse_as<BFLOAT16>(context, quad, thread);
    if (storage == INT8) fuse_as<INT8>(context, quad, thread);
  }

  void run(Context& context) const override {
    // Other activations clip, as all bytes do.
    if (g.activation == HARD_SWISH) to_floats ? run_as<HARD_SWISH, true>(context) : run_as<HARD_SWISH, false>(context);
    else to_floats ? run_as<NONE, true>(context) : run_as<NONE, false>(context);
  }

 private:
  static constexpr int GATHERED = 64;  // elements of all taps, at most, for which it is worth it to copy them side by side

  int results() const { return (g.c_out + 3) / 4; }  // quads of them
  int64_t words() const { return static_cast<int64_t>(row) / 4 * QUAD_WORDS; }

  // A block holds outputs of one unit.
  int results_of_unit() const { return (unit * (g.c_out / g.groups) + 3) / 4; }
  int inputs_of_unit() const { return (unit * (g.c_in / g.groups) + 3) / 4; }
  int width() const { return std::min(WIDEST_BLOCK, results_of_unit()); }
  int blocks_of_unit() const { return (results_of_unit() + width() - 1) / width(); }
  int blocks() const { return (g.groups + unit - 1) / unit * blocks_of_unit(); }

  // A range of planes, or of quads of outputs.
  struct Range {
    int begin, end;
  };

  Range results_of(int block) const {
    int first = block / blocks_of_unit() * results_of_unit(), begin = first + block % blocks_of_unit() * width();
    return {begin, std::min({begin + width(), first + results_of_unit(), results()})};
  }
  Range planes_of_block(int block) const {
    int begin = block / blocks_of_unit() * inputs_of_unit();
    return {begin, std::min(begin + inputs_of_unit(), (g.c_in + 3) / 4)};
  }
  // Returns the planes that a quad of outputs depends on; its other weights are zeros.
  Range planes_of_result(int quad) const {
    int inputs = g.c_in / g.groups, outputs = g.c_out / g.groups, last = std::min(4 * quad + 3, g.c_out - 1);
    return {4 * quad / outputs * inputs / 4, ((last / outputs + 1) * inputs + 3) / 4};
  }

  template <int S> void fuse_as(Context& context, int quad, int thread) const {
    const float* coefficient = context.values[coefficients].data;
    float *own = context.values[kernel].data, *fused = context.scratch_of(thread, row);
    float *steps = own + 4 * results() * words(), *offsets = steps + 4 * results();
    const Requantization& r = requantization;
    for (int o = 4 * quad; o < 4 * quad + 4; o++) {
      const int channel = std::min(o, g.c_out - 1);  // what fills a quad up has weights of zero
      float eta[MAX_GROUP_SIZE];
      for (int i = 0; i < group_size; i++)
        eta[i] = coefficient[shared ? i : i * g.c_out + channel] * (scales ? scales[i * g.c_out + channel] : 1.0f);
      const int kernels = S == INT8 ? (group_size + 1) / 2 * 2 : group_size;  // see fuse_row
      auto bank = static_cast<const typename Stored<S>::type*>(weights) + static_cast<int64_t>(o) * kernels * row;
      const Fused f = fuse_row<S>(bank, eta, group_size, row, fused);
      const float step = f.largest * f.step / 127 * r.x.step;
      const float sum = round_row(fused, f.largest, row, reinterpret_cast<char*>(own + o * words()));
      steps[o] = step * r.before;
      offsets[o] = (bias[o] - step * (r.x.zero - BYTE_SHIFT) * sum) * r.before + r.zero_before;
    }
  }

  QuadTask task(const Context& context, int block) const {
    const Value &in = context.values[x], &out = context.values[y];
    const float* rows = kernel < 0 ? static_cast<const float*>(weights) : context.values[kernel].data;
    const float* steps = kernel < 0 ? scales : rows + 4 * results() * words();
    const Range own = results_of(block), planes = planes_of_block(block);
    QuadTask t;
    t.x = in.data + planes.begin * in.plane, t.plane = in.plane, t.count = own.end - own.begin, t.gathered = false;
    t.taps = g.taps(), t.tap = quads * QUAD_WORDS;
    for (int i = 0; i < t.count; i++) {
      const int quad = own.begin + i;
      const Range needed = planes_of_result(quad);
      QuadRows& r = t.quads[i];
      r.first = needed.begin - planes.begin, r.inputs = needed.end - needed.begin;
      r.rows = rows + 4 * quad * words(), r.steps = steps + 4 * quad;
      r.bias = (kernel < 0 ? bias : steps + 4 * results()) + 4 * quad;
      r.residual = residual < 0 ? nullptr : context.values[residual].data + quad * out.plane;
      r.y = out.data + (to_floats ? 4 : 1) * quad * out.plane, r.outputs = std::min(4, g.c_out - 4 * quad);
    }
    t.row = words(), t.y_plane = out.plane;
    return t;
  }

  template <int A, bool FLOATS> void run_as(Context& context) const {
    if (g.in_place()) run_pointwise<A, FLOATS>(context);
    else run_strips<A, FLOATS>(context);
  }

  // Splits the work into chunks of positions and blocks of outputs.
  template <int A, bool FLOATS> void run_pointwise(Context& context) const {
    static constexpr int here[1] = {0};
    constexpr int CHUNK = 4 * WIDEST_TILE * LANES;  // of positions, which stay in a cache
    const Value& out = context.values[y];
    int count = blocks(), chunks = (out.positions() + CHUNK - 1) / CHUNK, wanted = 4 * context.pool.threads();
    int parts = chunks >= wanted ? 1 : std::min(count, (wanted + chunks - 1) / chunks);
    context.pool.run(chunks * parts, [&](int number, int) {
      int64_t begin = static_cast<int64_t>(number / parts) * CHUNK, end = std::min(begin + CHUNK, out.positions());
      int part = number % parts;
      const int end_block = begin_of_part(part + 1, count, parts);
      for (int block = begin_of_part(part, count, parts); block < end_block; block++) {
        QuadTask t = task(context, block);
        t.offsets = here;
        quad_tiles<A, FLOATS>(t, requantization, begin, end);
      }
    });
  }

  // Splits the work into strips of rows and blocks of outputs. A strip is convolved from a padded copy. Positions in the
  // padding between its rows are computed as well, so the results go to a buffer first, and from there row by row to the map.
  template <int A, bool FLOATS> void run_strips(Context& context) const {
    constexpr int CACHE = 8192, WORK = 200000;  // elements of a strip's copies; multiply-adds that are worth a task
    const Value &in = context.values[x], &out = context.values[y];
    const int positions = std::max(6 * LANES, std::min(1024, CACHE / (quads * g.strides[0] * g.strides[1])));
    int threads = context.pool.threads(), rows = std::max(1, std::min(out.height, positions / out.width));
    int strips = (out.height + rows - 1) / rows;
    rows = (out.height + strips - 1) / strips;
    strips = (out.height + rows - 1) / rows;
    Strip s(g, rows, out.width);
    s.padding = padding;
    const int count = blocks();
    const bool gathers = g.groups == 1 && g.taps() > 1 && g.taps() * quads <= GATHERED;
    int64_t work = static_cast<int64_t>(rows) * out.width * quads * 4 * g.taps() * g.c_out;
    int parts = std::max<int64_t>(1, std::min<int64_t>(count, work / WORK));
    if (g.groups == 1) parts = strips >= 3 * threads ? 1 : std::min(parts, (3 * threads + strips - 1) / strips);
    const int64_t length = (rows * s.line + LANES * WIDEST_TILE + 15) / 16 * 16;
    context.pool.run(strips * parts, [&](int number, int thread) {
      int offsets[MAX_TAPS];
      int first = number / parts * rows, part = number % parts, own = std::min(rows, out.height - first);
      const int from_block = begin_of_part(part, count, parts), to_block = begin_of_part(part + 1, count, parts);
      const Range read = {planes_of_block(from_block).begin, planes_of_block(to_block - 1).end};
      const int64_t copied = static_cast<int64_t>(read.end - read.begin + quads) * s.plane + 64;
      const int beside = gathers ? (row / 4 + AMX_SIDE) : 0;
      float* copies = context.scratch_of(thread, copied + (5 * width() + beside) * length);
      float *spaced = copies + copied, *others = spaced + 4 * width() * length, *gathered = others + width() * length;
      for (int i = read.begin; i < read.end; i++)
        s.copy(g, in.data + i * in.plane, in.height, in.width, first, own, copies + (i - read.begin) * s.plane);
      for (int block = from_block; block < to_block; block++) {
        QuadTask t = task(context, block);
        t.x = copies + (planes_of_block(block).begin - read.begin) * s.plane, t.plane = s.plane, t.offsets = s.offsets;
        if (gathers) gather(t, s, own, length, gathered, offsets);
        const int line = gathers ? out.width : s.line;
        const int64_t from = static_cast<int64_t>(first) * out.width;
        float* results[WIDEST_BLOCK];
        for (int i = 0; i < t.count; i++) {
          QuadRows& r = t.quads[i];
          if (r.residual) {
            move_rows(r.residual + from, out.width, others + i * length, line, own, out.width);
            r.residual = others + i * length;
          }
          results[i] = r.y, r.y = spaced + 4 * i * length;
        }
        t.y_plane = length;
        quad_tiles<A, FLOATS>(t, requantization, 0, static_cast<int64_t>(own - 1) * line + out.width);
        for (int i = 0; i < t.count; i++)
          for (int m = 0; m < (FLOATS ? t.quads[i].outputs : 1); m++)
            move_rows(t.quads[i].y + m * length, line, results[i] + m * out.plane + from, out.width, own, out.width);
      }
    });
  }

  // Copies what each tap reads into a plane of its own, without the padding between rows (im2col).
  void gather(QuadTask& t, const Strip& s, int rows, int64_t length, float* gathered, int* offsets) const {
    for (int tap = 0; tap < t.taps; tap++) {
      offsets[tap] = tap * quads * length;
      for (int i = 0; i < quads; i++)
        move_rows(t.x + i * s.plane + s.offsets[tap], s.line, gathered + (tap * quads + i) * length, s.width, rows, s.width);
    }
    t.x = gathered, t.plane = length, t.offsets = offsets, t.gathered = true;
  }

  // Rows from one map to another. What is written beyond the end of a row is written again with the next ones; behind the
  // last one may be what others have written, and where rows are short, a vector of an earlier one would reach there too.
  static void move_rows(const float* from, int line, float* to, int to_line, int rows, int width) {
    for (int row = 0; row < rows; row++, from += line, to += to_line) {
      const int64_t room = static_cast<int64_t>(rows - 1 - row) * to_line + width;  // to the end of the last row
      for (int i = 0; i < width; i += LANES) {
        if (i + LANES > room) store_part(to + i, load(from + i), std::min(LANES, width - i));
        else store(to + i, load(from + i));
      }
    }
  }
};

}  // namespace DYNET_LEVEL
