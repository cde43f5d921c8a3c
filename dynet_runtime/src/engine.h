// A network and the threads that run it.
#pragma once
#include <unistd.h>

#include <atomic>
#include <memory>
#include <mutex>

#include "pixels.h"
#include "plan.h"

namespace DYNET_LEVEL {

struct Predictor;

struct Worker {
  explicit Worker(int threads) : context(threads) {}
  Context context;
  Memory memory;
};

// All that changes while images are run.
struct Workers {
  static constexpr size_t MOST_SIZES = 64;  // of images, that are remembered

  explicit Workers(int threads) : process(getpid()), together(threads) {
    for (int thread = 0; thread < threads; thread++) apart.emplace_back(std::make_unique<Worker>(1));
  }

  const pid_t process;  // that has the threads
  std::mutex mutex;
  Worker together;                             // all threads on one image
  std::vector<std::unique_ptr<Worker>> apart;  // one thread on each
  std::map<std::pair<int, int>, Plan> plans;

  void forget_sizes() {
    plans.clear();
    together.context.all_masks.clear();
    for (auto& worker : apart) worker->context.all_masks.clear();
  }
};

class Engine {
 public:
  Engine(int threads, int values, int packed)
      : values(values), packed(packed), threads_(threads), workers_(new Workers(threads)) {}

  // Of another process' workers there are no threads here that could be joined.
  ~Engine() {
    Workers* workers = workers_;
    if (workers->process == getpid()) delete workers;
  }

  // Memory that lives as long as the engine, at a multiple of 64 bytes.
  void* keep(size_t bytes) {
    kept_.emplace_back(bytes + 64);
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(kept_.back().data()) + 63) / 64 * 64);
  }

  Operations operations;
  std::map<int, Predictor*> predictors;  // by the values that they give
  int values, result = 0;
  int packed;  // channels in an element of the image, and of all maps for which an operation does not say it
  Pixels pixels;

  // Of the result for images of this size: a vector has no height.
  Value shape_of_result(int height, int width) {
    Workers& own = workers();
    std::lock_guard<std::mutex> lock(own.mutex);
    return plan(own, height, width).shapes[result];
  }

  // Images [batch, height, width, 3], of bytes or floats -> y [batch, outputs], or [batch, rows, columns, channels].
  void run(const void* images, bool bytes, int batch, int height, int width, float* y, int64_t outputs) {
    Workers& own = workers();
    std::lock_guard<std::mutex> lock(own.mutex);
    const Plan& plan = this->plan(own, height, width);
    auto image = [&](int i) {
      return static_cast<const char*>(images) + static_cast<int64_t>(i) * height * width * 3 * (bytes ? 1 : 4);
    };
    Pool& pool = own.together.context.pool;
    if (batch < 2 * pool.threads()) {
      for (int i = 0; i < batch; i++) run(own.together, plan, image(i), bytes, y + i * outputs);
    } else {
      pool.run(batch, [&](int i, int thread) { run(*own.apart[thread], plan, image(i), bytes, y + i * outputs); });
    }
  }

  // One image by all threads; adds the seconds of every operation to `times`, and then those of all fusions together.
  void profile(const void* image, bool bytes, int height, int width, float* y, double* times) {
    Workers& own = workers();
    std::lock_guard<std::mutex> lock(own.mutex);
    run(own.together, plan(own, height, width), image, bytes, y, times);
  }

 private:
  // A fork copies memory but no threads, and what the others were changing just then is of no use: after it there are
  // new workers, and the old ones are left alone.
  Workers& workers() {
    Workers* known = workers_;
    if (known->process == getpid()) return *known;
    auto made = std::make_unique<Workers>(threads_);
    if (workers_.compare_exchange_strong(known, made.get())) return *made.release();
    return *known;  // of another thread, which has been faster
  }

  const Plan& plan(Workers& own, int height, int width) const {
    std::pair<int, int> size(height, width);
    auto found = own.plans.find(size);
    if (found != own.plans.end()) return found->second;
    if (own.plans.size() >= Workers::MOST_SIZES) own.forget_sizes();
    return own.plans.emplace(size, Planner(operations, values, result, packed).plan(height, width)).first->second;
  }

  void run(Worker& worker, const Plan& plan, const void* image, bool bytes, float* y, double* times = nullptr) const {
    FlushDenormals flush;
    Context& context = worker.context;
    worker.memory.reserve(plan.floats);
    context.values = plan.shapes;
    for (int value = 0; value < values; value++) context.values[value].data = worker.memory.begin + plan.offsets[value];
    if (bytes) pixels.read(context.pool, static_cast<const uint8_t*>(image), context.values[0]);
    else pixels.read(context.pool, static_cast<const float*>(image), context.values[0]);
    context.fusion = 0;
    for (size_t i = 0; i < operations.size(); i++) {
      double start = times ? seconds() : 0;
      operations[i]->run(context);
      if (times) times[i] += seconds() - start;
    }
    if (times) times[operations.size()] += context.fusion;
    const Value& last = context.values[result];
    if (!last.is_map()) {
      std::copy(last.data, last.data + last.channels, y);
      return;
    }
    for (int64_t position = 0; position < last.positions(); position++)
      for (int channel = 0; channel < last.channels; channel++) *y++ = last.data[channel * last.plane + position];
  }

  std::vector<std::vector<char>> kept_;
  const int threads_;
  std::atomic<Workers*> workers_;
};

}  // namespace DYNET_LEVEL
