// Threads that share the parts of a loop. Which thread takes a part changes nothing: parts write to
// places of their own.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Numbers below 1e-38 count as 0 meanwhile: they change nothing, and each would cost a hundred cycles.
struct FlushToZero {
#if defined(__x86_64__)
  unsigned before = _mm_getcsr();
  FlushToZero() { _mm_setcsr(before | 0x8040); }
  ~FlushToZero() { _mm_setcsr(before); }
#endif
};

class Team {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::condition_variable begins, ends;
  std::function<void(int64_t, int)> part;
  std::atomic<int64_t> next{0};
  int64_t parts = 0, round = 0;
  int busy = 0;
  bool over = false;

  void take(int worker) {
    for (int64_t i; (i = next.fetch_add(1)) < parts;) part(i, worker);
  }
  void work(int worker) {
    FlushToZero guard;
    std::unique_lock<std::mutex> lock(mutex);
    for (int64_t seen = 0;;) {
      begins.wait(lock, [&] { return over || round > seen; });
      if (over) return;
      seen = round;
      lock.unlock();
      take(worker);
      lock.lock();
      if (!--busy) ends.notify_one();
    }
  }

 public:
  // As many threads as the system lets it have, the caller's among them.
  explicit Team(int64_t wanted) {
    try {
      for (int64_t i = 1; i < wanted; i++) threads.emplace_back([this, i] { work(i); });
    } catch (const std::system_error &) {
    }
  }
  ~Team() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      over = true;
    }
    begins.notify_all();
    for (std::thread &thread : threads) thread.join();
  }
  int size() const { return threads.size() + 1; }

  // f(i, worker) for all i < n, with worker < size(); returns when all are done.
  template <class F> void each(int64_t n, const F &f) {
    if (n == 1 || threads.empty()) {
      for (int64_t i = 0; i < n; i++) f(i, 0);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex);
      part = std::cref(f), parts = n, next = 0, busy = threads.size(), round++;
    }
    begins.notify_all();
    take(0);
    std::unique_lock<std::mutex> lock(mutex);
    ends.wait(lock, [&] { return !busy; });
  }
};
