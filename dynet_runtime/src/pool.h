// Threads that share the tasks of one step after another. A step takes microseconds, so they wait for the next by
// looking, and sleep only if none comes for a while. Each begins with its own part of the tasks, which from step to step
// is the same part of the maps, so that it finds them in its own cache; then it helps the others.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace DYNET_LEVEL {

inline void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// While it lives, denormals are zeros in this thread: numbers of no weight would take many times as long.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  const unsigned before_;
#else
  FlushDenormals() {}
#endif
};

// Returns where a part of `count` things begins, of `parts` of about the same size.
inline int begin_of_part(int part, int count, int parts) {
  return static_cast<int>(static_cast<int64_t>(part) * count / parts);
}

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads), parts_(threads) {
    try {
      for (int index = 1; index < threads; index++) workers_.emplace_back([this, index] { work(index); });
    } catch (...) {  // there are not so many to be had
      end();
      throw;
    }
  }

  ~Pool() { end(); }

  int threads() const { return threads_; }

  // f(task, thread) for every task, in any order; returns when all are done. Throws what one of them has thrown.
  template <class F> void run(int tasks, F f) {
    if (threads_ == 1 || tasks <= 1) {
      for (int task = 0; task < tasks; task++) f(task, 0);
      return;
    }
    call_ = [](void* function, int task, int thread) { (*static_cast<F*>(function))(task, thread); };
    function_ = &f;
    for (int part = 0; part < threads_; part++) {
      parts_[part].next.store(begin_of_part(part, tasks, threads_), std::memory_order_relaxed);
      parts_[part].end = begin_of_part(part + 1, tasks, threads_);
    }
    busy_.store(threads_ - 1, std::memory_order_relaxed);
    round_.fetch_add(1);
    if (sleepers_.load() > 0) round_.notify_all();
    share(0);
    for (int looks = 1; busy_.load(std::memory_order_acquire) > 0; looks++) look_again(looks);
    if (failed_) {
      failed_ = false;
      std::rethrow_exception(std::exchange(failure_, nullptr));
    }
  }

 private:
  static constexpr int LOOKS = 20000;  // about 0.2 ms

  // Now and then the processor is left to others: what is waited for may need it.
  static void look_again(int looks) {
    if (looks % 2000 == 0) std::this_thread::yield();
    else pause_briefly();
  }

  struct alignas(64) Part {
    std::atomic<int> next{0};
    int end = 0;
  };

  void end() {
    stop_ = true;
    round_.fetch_add(1);
    round_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  void share(int thread) {
    try {
      for (int i = 0; i < threads_; i++) {
        Part& part = parts_[(thread + i) % threads_];
        for (int task; (task = part.next.fetch_add(1, std::memory_order_relaxed)) < part.end;)
          call_(function_, task, thread);
      }
    } catch (...) {  // the others do the rest
      if (!failed_.exchange(true)) failure_ = std::current_exception();
    }
  }

  void work(int thread) {
    FlushDenormals flush;
    for (unsigned seen = 0;;) {
      int looks = 0;
      while (round_.load(std::memory_order_acquire) == seen) {
        if (++looks < LOOKS) {
          look_again(looks);
        } else {
          sleepers_.fetch_add(1);
          round_.wait(seen);
          sleepers_.fetch_sub(1);
        }
      }
      seen = round_.load(std::memory_order_acquire);
      if (stop_) return;
      share(thread);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  const int threads_;
  std::vector<std::thread> workers_;
  std::atomic<unsigned> round_{0};
  std::atomic<int> busy_{0}, sleepers_{0};
  std::atomic<bool> stop_{false}, failed_{false};
  std::exception_ptr failure_;  // the first
  void (*call_)(void*, int, int) = nullptr;
  void* function_ = nullptr;
  std::vector<Part> parts_;
};

}  // namespace DYNET_LEVEL
