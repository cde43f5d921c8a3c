// The content of a file: mapped into memory, or a copy of what the caller has.
#pragma once
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "reader.h"

class File {
 public:
  // Throws Failure if the file cannot be read.
  explicit File(const char* path) {
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // or it would wait for who writes into a pipe
    struct stat about;
    if (descriptor < 0 || fstat(descriptor, &about) < 0) fail(descriptor, path);
    if (!S_ISREG(about.st_mode)) errno = S_ISDIR(about.st_mode) ? EISDIR : EINVAL, fail(descriptor, path);
    bytes_ = static_cast<size_t>(about.st_size);
    if (bytes_) memory_ = mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (memory_ == MAP_FAILED) memory_ = nullptr, fail(descriptor, path);
    close(descriptor);
    mapped_ = true;
  }

  File(const void* content, size_t bytes) : bytes_(bytes) {
    memory_ = ::operator new(std::max<size_t>(bytes, 1), ALIGNMENT);
    if (bytes) std::memcpy(memory_, content, bytes);
  }

  File(const File&) = delete;
  ~File() {
    if (mapped_ && memory_) munmap(memory_, bytes_);
    if (!mapped_) ::operator delete(memory_, ALIGNMENT);
  }

  Content content() const { return {static_cast<const char*>(memory_), bytes_}; }

 private:
  [[noreturn]] static void fail(int descriptor, const char* path) {
    const int reason = errno;
    if (descriptor >= 0) close(descriptor);
    throw Failure(DYNET_NO_FILE, std::string(path) + " cannot be read: " + std::strerror(reason));
  }

  static constexpr std::align_val_t ALIGNMENT{64};

  void* memory_ = nullptr;
  size_t bytes_ = 0;
  bool mapped_ = false;
};
