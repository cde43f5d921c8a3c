// What the code for a level of a processor's instructions has to offer. It is compiled once for each level, from `level.cpp`.
#pragma once
#include "network.h"

struct EngineOf;  // a level's own

struct Level {
  const char* name;
  bool bfloat16;  // whether it has instructions for bfloat16 arithmetic
  EngineOf* (*make)(const Network& network, int threads);
  void (*free)(EngineOf* engine);
  // Gives channels, rows and columns of the result; a vector has neither rows nor columns.
  void (*shape)(EngineOf* engine, int height, int width, int32_t* shape);
  void (*run)(EngineOf* engine, const void* images, bool bytes, int batch, int height, int width, float* y, int64_t outputs);
  void (*profile)(EngineOf* engine, const void* image, bool bytes, int height, int width, float* y, double* times);
};
