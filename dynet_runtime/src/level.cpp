// The engine for one level of instructions: DYNET_LEVEL, the namespace of all that depends on it, is its name.
#include "level.h"

#include "build.h"

#define NAME_OF(level) #level
#define NAME(level) NAME_OF(level)
#define JOINED(a, b) a##b
#define SYMBOL(level) JOINED(dynet_level_, level)

namespace DYNET_LEVEL {
namespace {

Engine* own(EngineOf* engine) { return reinterpret_cast<Engine*>(engine); }

EngineOf* make(const Network& network, int threads) {
  auto engine = std::make_unique<Engine>(threads, network.values, network.packed);
  for (int i = 0; i < 3; i++) engine->pixels.mean[i] = network.mean[i], engine->pixels.scale[i] = 1 / network.std[i];
  engine->result = network.result;
  for (const Node& node : network.nodes) add_operation(*engine, node);
  return reinterpret_cast<EngineOf*>(engine.release());
}

void free(EngineOf* engine) { delete own(engine); }

void shape(EngineOf* engine, int height, int width, int32_t* shape) {
  const Value result = own(engine)->shape_of_result(height, width);
  shape[0] = result.channels, shape[1] = result.height, shape[2] = result.width;
}

void run(EngineOf* engine, const void* images, bool bytes, int batch, int height, int width, float* y, int64_t outputs) {
  own(engine)->run(images, bytes, batch, height, width, y, outputs);
}

void profile(EngineOf* engine, const void* image, bool bytes, int height, int width, float* y, double* times) {
  own(engine)->profile(image, bytes, height, width, y, times);
}

}  // namespace
}  // namespace DYNET_LEVEL

extern const Level SYMBOL(DYNET_LEVEL) = {
    NAME(DYNET_LEVEL),  DYNET_LEVEL::MULTIPLIES_BFLOAT16, DYNET_LEVEL::make,    DYNET_LEVEL::free,
    DYNET_LEVEL::shape, DYNET_LEVEL::run,                 DYNET_LEVEL::profile,
};
