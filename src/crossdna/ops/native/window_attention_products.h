// The products of window attention's forward pass, in float32 and in bfloat16.
#pragma once

#include "window_attention.h"

namespace crossdna {
namespace {

// The products of the forward pass, in float32.
struct Float32Products {
  static void pack_keys(int64_t, int64_t, float*, float*) {}
  static void pack_queries(int64_t wp, float* rows, float* turned) {
    turn(wp, rows, turned);
  }
  static void score(int64_t count, int64_t width, int64_t wp, const float* k,
                    int64_t from, const float* turned, float* s) {
    scores(count, width, wp, k + from * wp, turned, s);
  }
  // Turns one vector's scores into weights relative to `top`; returns their sum.
  static Vec weigh(int64_t count, Vec top, float* s) {
    Vec total{};
    for (int64_t j = 0; j < count; ++j) {
      const Vec e = exp2_fast(load(s + j * LANES) - top);
      total += e;
      store(s + j * LANES, e);
    }
    return total;
  }
  static void add(int64_t count, int64_t width, int64_t wp, const float* v,
                  int64_t from, const float* s, float* o) {
    gather(count, wp, width, v + from * wp, s, o);
  }
};

#if defined(__AVX512BF16__)
// The same for bfloat16 operands, two products in one instruction, sums in float32.
// A row of keys is a row of bfloat16; values and weights of two keys share 32 bits.
struct BFloat16Products {
  static void pack_keys(int64_t count, int64_t wp, float* k, float* v) {
    auto* rows = reinterpret_cast<bfloat16*>(k);
    // In place: what is written never passes what is yet to be read.
    for (int64_t i = 0; i < count * wp; i += WIDTH) store_narrow(load(k + i), rows + i);
    for (int64_t j = 0; j < count; j += 2)
      for (int64_t d = 0; d < wp; d += WIDTH) {
        const IntVec even = (IntVec)load(v + j * wp + d);
        const IntVec odd = (IntVec)load(v + (j + 1) * wp + d);
        store(v + j / 2 * wp + d, join(even, odd));
      }
  }
  static void pack_queries(int64_t wp, float* rows, float* turned) {
    // Pairs of channels are numbers of 32 bits here: shorter rows, rewritten in place.
    const int64_t pairs = padded(wp / 2);
    for (int64_t i = 0; i < WIDTH; ++i)
      for (int64_t d = 0; d < wp; d += WIDTH)
        store_narrow(load(rows + i * wp + d),
                     reinterpret_cast<bfloat16*>(rows + i * pairs) + d);
    transpose(WIDTH, pairs, rows, pairs, turned, WIDTH);
  }
  static void score(int64_t count, int64_t width, int64_t wp, const float* k,
                    int64_t from, const float* turned, float* s) {
    const float* rows = k + from * wp / 2;
    int64_t j = 0;
    for (; j + 2 * GROUP <= count; j += 2 * GROUP)
      score_rows<2 * GROUP>(width, wp, rows + j * wp / 2, turned, s + j * WIDTH);
    if (j < count)
      score_rows<GROUP>(width, wp, rows + j * wp / 2, turned, s + j * WIDTH);
  }
  static Vec weigh(int64_t count, Vec top, float* s) {
    Vec total{};
    for (int64_t j = 0; j < count; j += 2) {
      const Vec even = exp2_coarse(load(s + j * WIDTH) - top);
      const Vec odd = exp2_coarse(load(s + (j + 1) * WIDTH) - top);
      total += even + odd;
      store(s + j / 2 * WIDTH, join((IntVec)even + 0x8000, (IntVec)odd + 0x8000));
    }
    return total;
  }
  static void add(int64_t count, int64_t width, int64_t wp, const float* v,
                  int64_t from, const float* s, float* o) {
    constexpr int WIDE = 2 * GROUP;
    const float* rows = v + from / 2 * wp;
    for (int64_t d = 0; d < width; d += WIDE) {
      Vec acc[WIDE];
#pragma GCC unroll 8
      for (int g = 0; g < WIDE; ++g) acc[g] = load(o + (d + g) * WIDTH);
      for (int64_t j = 0; j < count / 2; ++j) {
        const Vec w = load(s + j * WIDTH);
#pragma GCC unroll 8
        for (int g = 0; g < WIDE; ++g)
          acc[g] = multiply_add(acc[g], rows[j * wp + d + g], w);
      }
#pragma GCC unroll 8
      for (int g = 0; g < WIDE; ++g) store(o + (d + g) * WIDTH, acc[g]);
    }
  }

 private:
  // As many sums side by side as hide the latency of the instruction.
  template <int ROWS>
  static void score_rows(int64_t width, int64_t wp, const float* rows,
                         const float* turned, float* s) {
    Vec acc[ROWS] = {};
    for (int64_t d = 0; d < (width + 1) / 2; ++d) {
      const Vec q = load(turned + d * WIDTH);
#pragma GCC unroll 8
      for (int g = 0; g < ROWS; ++g)
        acc[g] = multiply_add(acc[g], rows[g * wp / 2 + d], q);
    }
#pragma GCC unroll 8
    for (int g = 0; g < ROWS; ++g) store(s + g * WIDTH, acc[g]);
  }
  // The upper halves of two numbers of 32 bits, `odd` above `even`.
  static Vec join(IntVec even, IntVec odd) {
    typedef uint32_t Bits __attribute__((vector_size(WIDTH * 4)));
    return (Vec)(((Bits)even >> 16) | ((Bits)odd & 0xffff0000u));
  }
  static Vec multiply_add(Vec sum, float pair, Vec pairs) {
    int32_t bits;
    std::memcpy(&bits, &pair, 4);
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(bits),
                                 (__m512bh)(__m512)pairs);
  }
};
#else
typedef Float32Products BFloat16Products;
#endif

}  // namespace
}  // namespace crossdna
