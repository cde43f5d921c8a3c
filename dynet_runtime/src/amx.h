// Byte products by AMX: one instruction multiplies 16 outputs by 16 positions over 16 quads. Maps of quads and rows of
// kernels already have the layout that its tiles need.
#pragma once
#include "quads.h"

#if defined(__AMX_INT8__) && defined(__AVX512VNNI__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define DYNET_AMX 1
#endif

namespace DYNET_LEVEL {

constexpr int AMX_SIDE = 16;  // outputs, positions, or quads of a tile

#if defined(DYNET_AMX)
// Asks the system for permission to use tiles, once for all threads of the process.
inline bool has_amx() {
  static const bool granted = [] {
    constexpr int REQUEST = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, REQUEST, TILES) == 0;
  }();
  return granted;
}

// Tiles 0 to 3 are the sums of two times 16 outputs and two times 16 positions, 4 and 5 the outputs' weights, 6 and 7 the
// positions.
struct AmxTiles {
  AmxTiles(int outputs, int quads) {
    struct {
      uint8_t palette = 1, start = 0, zeros[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shapes;
    int rows[2] = {std::min(outputs, AMX_SIDE), std::max(outputs - AMX_SIDE, 1)};
    for (int i = 0; i < 4; i++) shapes.rows[i] = rows[i / 2], shapes.bytes[i] = 64;
    for (int i = 0; i < 2; i++) shapes.rows[4 + i] = rows[i], shapes.bytes[4 + i] = 4 * quads;
    for (int i = 0; i < 2; i++) shapes.rows[6 + i] = quads, shapes.bytes[6 + i] = 64;
    asm volatile("" ::: "memory");  // the intrinsics do not say what they read
    _tile_loadconfig(&shapes);
  }
  ~AmxTiles() { _tile_release(); }
};

// What the tiles read: the planes of each tap, or those of all taps together, in parts of `quads` quads.
struct AmxTask {
  template <class Task>
  explicit AmxTask(const Task& t)
      : x(t.x), rows(t.quads[0].rows), plane(t.plane), row(t.row), offsets(t.offsets), taps(t.gathered ? 1 : t.taps),
        tap(t.gathered ? t.row : t.tap), quads(tap / ((tap + AMX_SIDE - 1) / AMX_SIDE)) {}

  const float *x, *rows;
  int64_t plane, row;
  const int* offsets;
  int taps, tap, quads;
};

// Sums for up to 32 outputs and 32 positions, which `t` has from `at` on: sums[output][position].
template <bool TWO_OUTPUTS, bool TWO_POSITIONS>
inline void amx_sums(const AmxTask& t, int64_t at, int32_t (&sums)[2 * AMX_SIDE][2 * AMX_SIDE]) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const int64_t row = 4 * t.row, plane = 4 * t.plane;
  for (int tap = 0; tap < t.taps; tap++) {
    const float *x = t.x + at + t.offsets[tap], *weights = t.rows + static_cast<int64_t>(tap) * t.tap;
    for (int i = 0; i < t.tap; i += t.quads, x += t.quads * t.plane, weights += t.quads) {
      _tile_loadd(6, x, plane);
      _tile_loadd(4, weights, row);
      _tile_dpbsud(0, 4, 6);
      if constexpr (TWO_POSITIONS) {
        _tile_loadd(7, x + AMX_SIDE, plane);
        _tile_dpbsud(1, 4, 7);
      }
      if constexpr (TWO_OUTPUTS) {
        _tile_loadd(5, weights + AMX_SIDE * t.row, row);
        _tile_dpbsud(2, 5, 6);
        if constexpr (TWO_POSITIONS) {
          _tile_dpbsud(3, 5, 7);
        }
      }
    }
  }
  constexpr int64_t STRIDE = sizeof sums[0];
  _tile_stored(0, &sums[0][0], STRIDE);
  if constexpr (TWO_POSITIONS) {
    _tile_stored(1, &sums[0][AMX_SIDE], STRIDE);
  }
  if constexpr (TWO_OUTPUTS) {
    _tile_stored(2, &sums[AMX_SIDE][0], STRIDE);
  }
  if constexpr (TWO_OUTPUTS && TWO_POSITIONS) {
    _tile_stored(3, &sums[AMX_SIDE][AMX_SIDE], STRIDE);
  }
  asm volatile("" ::: "memory");
}
#else
inline bool has_amx() { return false; }
#endif

}  // namespace DYNET_LEVEL
