// What can go wrong, and how it leaves the library: as an exception inside of it, as a number for who has called it.
#pragma once
#include <exception>
#include <string>

#include "../include/dynet.h"

struct Failure : std::exception {
  Failure(dynet_status status, std::string text) : status(status), text(std::move(text)) {}
  const char* what() const noexcept override;  // in one source file, so that the class is the same one in all

  dynet_status status;
  std::string text;  // a line
};
