// The C interface.
#include "../include/dynet.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <thread>

#include "file.h"
#include "levels.h"
#include "preprocessing.h"
#include "read_network.h"

const char* Failure::what() const noexcept { return text.c_str(); }

namespace {

thread_local std::string last_error;

// Calls f. An exception must not reach the caller, whose language has others.
template <class F> dynet_status status_of(F f) noexcept {
  auto failed = [](dynet_status status, const char* text) noexcept {
    try {
      last_error = text;
    } catch (...) {  // there is no memory for it
    }
    return status;
  };
  try {
    f();
    return DYNET_OK;
  } catch (const Failure& failure) {
    return failed(failure.status, failure.what());
  } catch (const std::bad_alloc&) {
    return failed(DYNET_NO_MEMORY, "there is not enough memory");
  } catch (const std::length_error&) {  // of a vector that is larger than any memory
    return failed(DYNET_NO_MEMORY, "there is not enough memory");
  } catch (const std::system_error&) {
    return failed(DYNET_NO_THREADS, "the system has no threads for this model; use fewer");
  } catch (const std::exception& error) {
    return failed(DYNET_INTERNAL, error.what());
  } catch (...) {
    return failed(DYNET_INTERNAL, "an unknown fault");
  }
}

// Calls f, for images of a size that its failures name.
template <class F> void for_size(int height, int width, F f) {
  const std::string size = "images of " + std::to_string(height) + "x" + std::to_string(width);
  try {
    f();
  } catch (const Failure& failure) {
    if (failure.status == DYNET_TOO_SMALL) throw Failure(DYNET_TOO_SMALL, size + " are too small for this network");
    if (failure.status == DYNET_OTHER_SIZES)
      throw Failure(DYNET_OTHER_SIZES, "of " + size + " this network takes maps of different sizes together, which the engine cannot");
    throw;
  } catch (const std::bad_alloc&) {
    throw Failure(DYNET_NO_MEMORY, "there is not enough memory for " + size);
  } catch (const std::length_error&) {  // of a vector that is larger than any memory
    throw Failure(DYNET_NO_MEMORY, "there is not enough memory for " + size);
  } catch (const std::system_error&) {
    throw Failure(DYNET_NO_THREADS, "the system has no threads for " + size + "; use fewer");
  }
}

void require(bool holds, const char* otherwise) {
  if (!holds) throw Failure(DYNET_ARGUMENT, otherwise);
}

void check_size(int height, int width) {
  if (height < 1 || width < 1) for_size(height, width, [] { throw Failure(DYNET_TOO_SMALL, ""); });
  require(height <= LARGEST_SIDE && width <= LARGEST_SIDE, "the sides of images must be at most 32768");
}

int threads_for(int wanted) {
  require(wanted >= 0 && wanted <= 1024, "threads must be from 0 to 1024");
  if (wanted) return wanted;
#if defined(__linux__)
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return std::max(1, CPU_COUNT(&cores));
#endif
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

struct dynet_model {
  template <class... Source>
  dynet_model(int threads, Source... source)
      : file(source...), network(read_network(file.content())), level(chosen_level()), threads(threads_for(threads)),
        engine(level.make(network, this->threads)) {}
  ~dynet_model() { level.free(engine); }

  const File file;
  const Network network;
  const Level& level;
  const int threads;
  EngineOf* const engine;

  int64_t outputs(int height, int width) const {
    int32_t shape[3];
    for_size(height, width, [&] { level.shape(engine, height, width, shape); });
    return static_cast<int64_t>(shape[0]) * std::max(1, shape[1]) * std::max(1, shape[2]);
  }

  void run(const void* images, bool bytes, int batch, int height, int width, float* logits, size_t count) const {
    require(images && logits, "there are no images, or there is no room for logits");
    require(batch > 0, "a batch must have an image");
    check_size(height, width);
    const int64_t each = outputs(height, width);
    require(static_cast<uint64_t>(each) <= count / batch, "there is no room for all logits");
    for_size(height, width, [&] { level.run(engine, images, bytes, batch, height, width, logits, each); });
  }
};

namespace {

const dynet_model& existing(const dynet_model* model) {
  require(model, "there is no model");
  return *model;
}

const PreprocessingDescription& preprocessing_of(const dynet_model& model) {
  const PreprocessingDescription& p = model.network.preprocessing;
  require(p.kind != 0, "the file does not say how pictures are preprocessed");
  return p;
}

}  // namespace

extern "C" {

const char* dynet_version(void) { return DYNET_VERSION; }

const char* dynet_last_error(void) { return last_error.c_str(); }

dynet_status dynet_load(const char* path, int32_t threads, dynet_model** model) {
  return status_of([&] {
    require(path && model, "there is no path, or no place for the model");
    *model = nullptr;
    *model = new dynet_model(threads, path);
  });
}

dynet_status dynet_load_memory(const void* content, size_t bytes, int32_t threads, dynet_model** model) {
  return status_of([&] {
    require((content || !bytes) && model, "there is no content, or no place for the model");
    *model = nullptr;
    *model = new dynet_model(threads, content, bytes);
  });
}

void dynet_free(dynet_model* model) { delete model; }

void dynet_describe(const dynet_model* model, dynet_description* description) {
  static const char* const NUMBERS[] = {"float32", "bfloat16", "int8"};
  const Network& network = model->network;
  const PreprocessingDescription& p = network.preprocessing;
  dynet_description d = {};
  d.name = network.name.c_str(), d.arithmetic = NUMBERS[network.arithmetic], d.storage = NUMBERS[network.storage];
  d.processor = model->level.name, d.threads = model->threads;
  d.classes = network.outputs, d.named_classes = static_cast<int32_t>(network.classes.size());
  d.is_segmentation = network.result_is_map;
  d.image_height = p.height, d.image_width = p.width, d.resize_to = p.resize_to;
  std::copy_n(network.mean, 3, d.mean);
  std::copy_n(network.std, 3, d.std);
  *description = d;
}

const char* dynet_class_name(const dynet_model* model, int32_t index) {
  const auto& names = model->network.classes;
  return index >= 0 && static_cast<size_t>(index) < names.size() ? names[index].c_str() : nullptr;
}

dynet_status dynet_output_shape(dynet_model* model, int32_t height, int32_t width, int32_t shape[3]) {
  return status_of([&] {
    require(model && shape, "there is no model, or no place for the shape");
    check_size(height, width);
    int32_t own[3];
    for_size(height, width, [&] { model->level.shape(model->engine, height, width, own); });
    shape[0] = own[1], shape[1] = own[2], shape[2] = own[0];
  });
}

dynet_status dynet_run(dynet_model* model, const uint8_t* images, int32_t batch, int32_t height, int32_t width,
                       float* logits, size_t count) {
  return status_of([&] { existing(model).run(images, true, batch, height, width, logits, count); });
}

dynet_status dynet_run_floats(dynet_model* model, const float* images, int32_t batch, int32_t height, int32_t width,
                              float* logits, size_t count) {
  return status_of([&] { existing(model).run(images, false, batch, height, width, logits, count); });
}

dynet_status dynet_preprocess(const dynet_model* model, const uint8_t* picture, int32_t height, int32_t width,
                              uint8_t* image) {
  return status_of([&] {
    const PreprocessingDescription& p = preprocessing_of(existing(model));
    require(picture && image, "there is no picture, or no room for the image");
    check_size(height, width);
    preprocess({p.kind, p.height, p.width, p.resize_to}, {picture, height, width}, image);
  });
}

dynet_status dynet_classify(dynet_model* model, const uint8_t* picture, int32_t height, int32_t width,
                            float* probabilities) {
  return status_of([&] {
    const Network& network = existing(model).network;
    require(!network.result_is_map, "this network is for segmentation: it has outputs for every position");
    const PreprocessingDescription& p = preprocessing_of(*model);
    require(probabilities, "there is no room for probabilities");
    std::vector<uint8_t> image(static_cast<size_t>(p.height) * p.width * 3);
    const dynet_status status = dynet_preprocess(model, picture, height, width, image.data());
    if (status != DYNET_OK) throw Failure(status, last_error);
    model->run(image.data(), true, 1, p.height, p.width, probabilities, network.outputs);
    dynet_softmax(probabilities, 1, network.outputs);
  });
}

void dynet_softmax(float* logits, size_t rows, int32_t classes) {
  if (classes < 1) return;
  for (; rows; rows--, logits += classes) {
    const float largest = *std::max_element(logits, logits + classes);
    float total = 0;
    for (int i = 0; i < classes; i++) total += logits[i] = std::exp(logits[i] - largest);
    for (int i = 0; i < classes; i++) logits[i] /= total;
  }
}

int32_t dynet_top_k(const float* numbers, int32_t count, int32_t k, int32_t* indices) {
  k = std::max(0, std::min(k, count));
  // By insertion: k is small. NaN is behind all numbers.
  auto before = [&](int a, int b) { return numbers[a] > numbers[b] || (std::isnan(numbers[b]) && !std::isnan(numbers[a])); };
  int32_t found = 0;
  for (int32_t i = 0; i < count; i++) {
    if (found == k && (k == 0 || !before(i, indices[k - 1]))) continue;
    int32_t at = found < k ? found++ : k - 1;
    for (; at > 0 && before(i, indices[at - 1]); at--) indices[at] = indices[at - 1];
    indices[at] = i;
  }
  return found;
}

int32_t dynet_operations(const dynet_model* model) { return static_cast<int32_t>(model->network.nodes.size()); }

dynet_status dynet_profile(dynet_model* model, const uint8_t* image, int32_t height, int32_t width, double* seconds) {
  return status_of([&] {
    require(image && seconds, "there is no image, or no room for the seconds");
    check_size(height, width);
    std::vector<float> logits(existing(model).outputs(height, width));
    for_size(height, width, [&] {
      model->level.profile(model->engine, image, true, height, width, logits.data(), seconds);
    });
  });
}

const char* dynet_level(int32_t index) {
  return index >= 0 && static_cast<size_t>(index) < levels().size() ? levels()[index]->name : nullptr;
}

int32_t dynet_has_bfloat16(void) {
  int32_t has = 0;
  status_of([&] { has = chosen_level().bfloat16; });
  return has;
}

}  // extern "C"
