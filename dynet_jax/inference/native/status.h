// What can go wrong, and how it leaves the engine: as an exception inside of it, as a number for who has called it.
#pragma once
#include <cstdint>
#include <new>
#include <stdexcept>
#include <system_error>

enum Status : int32_t { DONE = 0, TOO_SMALL = 1, OTHER_SIZES = 2, NO_MEMORY = 3, NO_THREADS = 4, BROKEN = 5 };

struct Failure {
  Status status;
};

// Calls f. An exception must not reach the caller, whose language has others.
template <class F> inline Status status_of(F f) noexcept {
  try {
    f();
    return DONE;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  } catch (const std::length_error&) {  // of a vector that is larger than any memory
    return NO_MEMORY;
  } catch (const std::system_error&) {
    return NO_THREADS;
  } catch (...) {
    return BROKEN;
  }
}
