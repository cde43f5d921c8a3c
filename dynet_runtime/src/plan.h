// Where each value lies while the network runs, in memory that is used again and again.
#pragma once
#include <cstdlib>
#include <map>
#include <memory>

#include "context.h"

namespace DYNET_LEVEL {

typedef std::vector<std::unique_ptr<Operation>> Operations;

struct Plan {  // for images of one size
  std::vector<Value> shapes;
  std::vector<int64_t> offsets;
  int64_t floats = 0;
};

class Planner {
 public:
  Planner(const Operations& operations, int values, int result, int packed)
      : operations_(operations), values_(values), result_(result), packed_(packed) {}

  // Throws Failure if the images are too small, or maps that an operation takes together have different sizes.
  Plan plan(int height, int width) {
    plan_.shapes.resize(values_);
    plan_.offsets.resize(values_);
    for (auto& value : plan_.shapes) value.packed = packed_;
    plan_.shapes[0].shape(packed_ == 2 ? 4 : 3, height, width);
    std::vector<std::vector<int>> ended = ended_after();
    take(0);
    for (size_t i = 0; i < operations_.size(); i++) {
      operations_[i]->shape(plan_.shapes);
      for (int output : operations_[i]->outputs) take(output);
      for (int value : ended[i]) free_.emplace(plan_.shapes[value].floats(), plan_.offsets[value]);
    }
    add_margins();
    return std::move(plan_);
  }

 private:
  void add_margins() {
    int64_t margin = 64, behind = 0;
    for (auto& operation : operations_) margin = std::max(margin, operation->reads_around(plan_.shapes));
    // Kernels of bytes may be filled up by zeros for planes behind a map's last one, which are read for that.
    for (const Value& value : plan_.shapes)
      if (value.in_quads()) behind = std::max(behind, value.planes() * value.plane);
    margin = rounded_up(margin, 16);
    for (int64_t& offset : plan_.offsets) offset += margin;
    plan_.floats += margin + std::max(margin, behind);
    if (plan_.floats > MOST) throw std::bad_alloc();
  }

  // For each operation the values that none needs after it. The result is needed until the end; numbers may be of no
  // value.
  std::vector<std::vector<int>> ended_after() const {
    const size_t never = operations_.size();
    std::vector<size_t> last(values_, never);
    last[0] = 0;
    for (size_t i = 0; i < operations_.size(); i++) {
      for (int output : operations_[i]->outputs) last[output] = i;
      for (int input : operations_[i]->inputs) last[input] = i;
    }
    last[result_] = never;
    std::vector<std::vector<int>> ended(operations_.size());
    for (int value = 0; value < values_; value++)
      if (last[value] < never) ended[last[value]].push_back(value);
    return ended;
  }

  void take(int value) {
    const int64_t size = plan_.shapes[value].floats();
    if (size > MOST) throw std::bad_alloc();
    auto found = free_.lower_bound(size);
    if (found != free_.end() && found->first <= 2 * size) {
      plan_.offsets[value] = found->second;
      free_.erase(found);
    } else {
      plan_.offsets[value] = plan_.floats;
      plan_.floats += size;
      if (plan_.floats > MOST) throw std::bad_alloc();
    }
  }

  static constexpr int64_t MOST = int64_t{1} << 34;  // floats: 64 GiB

  const Operations& operations_;
  const int values_, result_;
  const int packed_;
  Plan plan_;
  std::multimap<int64_t, int64_t> free_;  // size -> offset
};

// Zeros at first, which the system makes where they are touched.
struct Memory {
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> content;
  int64_t size = 0;
  float* begin = nullptr;

  void reserve(int64_t floats) {
    if (size >= floats) return;
    content.reset();  // not both at once
    size = 0;
    content.reset(std::calloc(floats + 16, sizeof(float)));
    if (!content) throw std::bad_alloc();
    size = floats;
    begin = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(content.get()) + 63) / 64 * 64);
  }
};

}  // namespace DYNET_LEVEL
