// Vectors, small matrix products and transposition for the operators of this folder.
//
// Everything is written with the compiler's vector extension, so that one source serves
// AVX-512, AVX2 and NEON; the width follows the target given on the command line. The
// few instructions that it cannot express stand beside a plain form of the same.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#if defined(__AVX__)
#include <immintrin.h>
#endif

// Inner loops that AVX2 compiles apart from their callers: inlined into a long function,
// they get too few of the 16 registers and read their addresses from the stack.
#if defined(__AVX__) && !defined(__AVX512F__)
#define CROSSDNA_APART [[gnu::noinline]]
#else
#define CROSSDNA_APART
#endif

namespace crossdna {

#if defined(__AVX512F__)
constexpr int WIDTH = 16;
constexpr int TILE_VECTORS = 4;
#elif defined(__AVX__)
constexpr int WIDTH = 8;
constexpr int TILE_VECTORS = 2;
#else
constexpr int WIDTH = 4;
constexpr int TILE_VECTORS = 4;
#endif

// Rows and columns of every scratch matrix are padded with zeros to this many floats.
constexpr int64_t PAD = 16;

typedef float Vec __attribute__((vector_size(WIDTH * 4)));
typedef float LooseVec __attribute__((vector_size(WIDTH * 4), aligned(4)));
typedef int32_t IntVec __attribute__((vector_size(WIDTH * 4)));

static inline int64_t padded(int64_t n) { return (n + PAD - 1) / PAD * PAD; }

static inline Vec splat(float x) { return Vec{} + x; }
static inline Vec load(const float* p) { return *reinterpret_cast<const LooseVec*>(p); }
static inline void store(float* p, Vec x) { *reinterpret_cast<LooseVec*>(p) = x; }

// Keeps a vector in its register: with AVX2, GCC prefers to read it again at each use,
// and the loads, not the products, then set the pace.
static inline Vec held(Vec x) {
#if defined(__AVX__) && !defined(__AVX512F__)
  asm("" : "+x"(x));
#endif
  return x;
}

static inline float sum(Vec x) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)x);
#else
  typedef float Four __attribute__((vector_size(16)));
  Four parts[WIDTH / 4];
  std::memcpy(parts, &x, sizeof x);
  for (int i = 1; i < WIDTH / 4; ++i) parts[0] += parts[i];
  return (parts[0][0] + parts[0][2]) + (parts[0][1] + parts[0][3]);
#endif
}

static inline Vec select(IntVec condition, Vec yes, Vec no) {
  return (Vec)(((IntVec)yes & condition) | ((IntVec)no & ~condition));
}

// NaN where b is NaN.
static inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }
static inline Vec minimum(Vec a, Vec b) { return a < b ? a : b; }

// 2^x for x up to 127, relative error 1e-7; 0 below -127, NaN stays NaN.
static inline Vec exp2_fast(Vec x) {
  x = maximum(splat(-127.0f), x);
  // Adding 1.5 * 2^23 rounds to an integer n, in the lowest bits.
  const Vec shifted = x + 12582912.0f;
  const Vec f = x - (shifted - 12582912.0f);
  Vec y = splat(1.534581243e-04f);  // minimax on [-1/2, 1/2]
  y = y * f + 1.339993090e-03f;
  y = y * f + 9.618489072e-03f;
  y = y * f + 5.550328642e-02f;
  y = y * f + 2.402264625e-01f;
  y = y * f + 6.931471825e-01f;
  y = y * f + 1.0f;
  const IntVec exponent = ((IntVec)shifted << 23) + (127 << 23);
  return y * (Vec)exponent;
}

// The same with a relative error of 1e-4, a fortieth of bfloat16's rounding, for any x.
static inline Vec exp2_coarse(Vec x) {
#if defined(__AVX512F__)
  // What is left of x above its floor; the CPU scales by 2^floor(x), to 0 and infinity
  // if need be.
  constexpr int DOWN = 1;
  const Vec f = (Vec)_mm512_reduce_ps((__m512)x, DOWN);
  Vec y = splat(7.802423e-02f);  // minimax on [0, 1)
  y = y * f + 2.2606784e-01f;
  y = y * f + 6.9583313e-01f;
  y = y * f + 9.9992527e-01f;
  return (Vec)_mm512_scalef_ps((__m512)y, (__m512)x);
#else
  x = maximum(splat(-127.0f), x);
  x = minimum(splat(127.0f), x);
  const Vec shifted = x + 12582912.0f;
  const Vec f = x - (shifted - 12582912.0f);
  Vec y = splat(5.517166853e-02f);  // minimax on [-1/2, 1/2]
  y = y * f + 2.426111251e-01f;
  y = y * f + 6.932609677e-01f;
  y = y * f + 9.999280572e-01f;
  const IntVec exponent = ((IntVec)shifted << 23) + (127 << 23);
  return y * (Vec)exponent;
#endif
}

static inline Vec exp_fast(Vec x) {
  x *= 1.44269504f;
  return exp2_fast(minimum(splat(127.0f), x));
}

// 1 / x for normal x: an estimate and one step of Newton where the CPU estimates.
static inline Vec reciprocal(Vec x) {
#if defined(__AVX512F__)
  const Vec estimate = (Vec)_mm512_rcp14_ps((__m512)x);
  return estimate * (2.0f - x * estimate);
#elif defined(__AVX__)
  const Vec estimate = (Vec)_mm256_rcp_ps((__m256)x);
  return estimate * (2.0f - x * estimate);
#else
  return 1.0f / x;
#endif
}

// Reading float32 and bfloat16 alike; writing rounds to nearest even.
struct bfloat16 {
  uint16_t bits;
};
static inline float widen(float x) { return x; }
static inline float widen(bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}
static inline void narrow(float x, float* out) { *out = x; }
static inline void narrow(float x, bfloat16* out) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) {
    out->bits = 0x7fc0;
    return;
  }
  out->bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Whole vectors of either type, and the gate that they pass through.
static inline Vec sigmoid(Vec x) { return reciprocal(1.0f + exp_fast(-x)); }

// The same as accurately as numbers of type T can show.
template <typename T>
static inline Vec sigmoid_of(Vec x) {
  return sigmoid(x);
}
#if defined(__AVX512F__)
template <>
inline Vec sigmoid_of<bfloat16>(Vec x) {
  return (Vec)_mm512_rcp14_ps((__m512)(1.0f + exp2_coarse(x * -1.44269504f)));
}
#endif

static inline Vec load_wide(const float* p) { return load(p); }
static inline Vec load_wide(const bfloat16* p) {
  typedef uint16_t Half __attribute__((vector_size(WIDTH * 2), aligned(2)));
  const Half bits = *reinterpret_cast<const Half*>(p);
  return (Vec)(__builtin_convertvector(bits, IntVec) << 16);
}
static inline void store_narrow(Vec x, float* p) { store(p, x); }
static inline void store_narrow(Vec x, bfloat16* p) {
#if defined(__AVX512BF16__)
  const __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
  std::memcpy(p, &rounded, sizeof rounded);
#else
  typedef uint32_t Bits __attribute__((vector_size(WIDTH * 4)));
  typedef uint16_t Half __attribute__((vector_size(WIDTH * 2)));
  typedef uint16_t LooseHalf __attribute__((vector_size(WIDTH * 2), aligned(2)));
  const Bits bits = (Bits)x, odd = (bits >> 16) & 1;
  const IntVec rounded = (IntVec)((bits + 0x7fff + odd) >> 16);
  const IntVec chosen = x == x ? rounded : IntVec{} + 0x7fc0;
  *reinterpret_cast<LooseHalf*>(p) = __builtin_convertvector(chosen, Half);
#endif
}

// Copies `count` numbers, widened, and zeros up to `room`.
static inline void read_row(const float* from, int64_t count, int64_t room, float* to) {
  std::memcpy(to, from, count * 4);
  if (count < room) std::memset(to + count, 0, (room - count) * 4);
}
static inline void read_row(const bfloat16* from, int64_t count, int64_t room,
                            float* to) {
  int64_t d = 0;
  for (; d + WIDTH <= count; d += WIDTH) store(to + d, load_wide(from + d));
  for (; d < count; ++d) to[d] = widen(from[d]);
  if (count < room) std::memset(to + count, 0, (room - count) * 4);
}
static inline void write_row(const float* from, int64_t count, float* to) {
  std::memcpy(to, from, count * 4);
}
static inline void write_row(const float* from, int64_t count, bfloat16* to) {
  int64_t d = 0;
  for (; d + WIDTH <= count; d += WIDTH) store_narrow(load(from + d), to + d);
  for (; d < count; ++d) narrow(from[d], to + d);
}

// Memory of one thread: aligned, released with the object.
class Scratch {
 public:
  explicit Scratch(int64_t floats) {
    void* p = nullptr;
    if (posix_memalign(&p, 64, static_cast<size_t>(floats) * 4) != 0) std::abort();
    base_ = static_cast<float*>(p);
    std::memset(base_, 0, static_cast<size_t>(floats) * 4);
    next_ = base_;
  }
  ~Scratch() { std::free(base_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* take(int64_t floats) {
    float* p = next_;
    next_ += padded(floats);
    return p;
  }

 private:
  float* base_;
  float* next_;
};

// One register tile of C += A B or C += A^T B. ROWS x VECTORS accumulators.
template <bool TRANSPOSED, int ROWS, int VECTORS>
static inline void tile(int64_t depth, const float* a, int64_t lda, const float* b,
                        int64_t ldb, float* c, int64_t ldc, float keep) {
  Vec acc[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j)
      acc[r][j] = keep == 0.0f ? Vec{} : load(c + r * ldc + j * WIDTH) * keep;
  for (int64_t k = 0; k < depth; ++k) {
    Vec row[VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j)
      row[j] = held(load(b + k * ldb + j * WIDTH));
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const float x = TRANSPOSED ? a[k * lda + r] : a[r * lda + k];
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) acc[r][j] += x * row[j];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) store(c + r * ldc + j * WIDTH, acc[r][j]);
}

// C = keep C + A B, A (rows, depth) row-major, or (depth, rows) when TRANSPOSED.
// `rows` and `columns` are multiples of PAD.
template <bool TRANSPOSED = false>
static inline void product(int64_t rows, int64_t columns, int64_t depth, const float* a,
                           int64_t lda, const float* b, int64_t ldb, float* c,
                           int64_t ldc, float keep = 0.0f) {
  constexpr int64_t WIDE = TILE_VECTORS * WIDTH;
  int64_t j = 0;
  for (; j + WIDE <= columns; j += WIDE)
    for (int64_t i = 0; i < rows; i += 4)
      tile<TRANSPOSED, 4, TILE_VECTORS>(depth, a + (TRANSPOSED ? i : i * lda), lda,
                                        b + j, ldb, c + i * ldc + j, ldc, keep);
  for (; j < columns; j += WIDTH)
    for (int64_t i = 0; i < rows; i += 8)
      tile<TRANSPOSED, 8, 1>(depth, a + (TRANSPOSED ? i : i * lda), lda, b + j, ldb,
                             c + i * ldc + j, ldc, keep);
}

// out (columns, rows) = in (rows, columns)^T; both multiples of PAD.
static inline void transpose(int64_t rows, int64_t columns, const float* in, int64_t ldi,
                             float* out, int64_t ldo) {
  for (int64_t i = 0; i < rows; i += WIDTH)
    for (int64_t j = 0; j < columns; j += WIDTH) {
      Vec x[WIDTH];
#pragma GCC unroll 16
      for (int r = 0; r < WIDTH; ++r) x[r] = load(in + (i + r) * ldi + j);
      // Butterflies: stage s swaps the s-th bit of row and column.
#pragma GCC unroll 4
      for (int s = 1; s < WIDTH; s *= 2) {
        IntVec low{}, high{};
        for (int l = 0; l < WIDTH; ++l) {
          low[l] = (l & s) ? WIDTH + (l ^ s) : l;
          high[l] = (l & s) ? WIDTH + l : (l ^ s);
        }
#pragma GCC unroll 16
        for (int r = 0; r < WIDTH; ++r)
          if (!(r & s)) {
            const Vec a = x[r], b = x[r | s];
            x[r] = __builtin_shuffle(a, b, low);
            x[r | s] = __builtin_shuffle(a, b, high);
          }
      }
#pragma GCC unroll 16
      for (int r = 0; r < WIDTH; ++r) store(out + (j + r) * ldo + i, x[r]);
    }
}

}  // namespace crossdna
