// The gated delta rule, forward; delta_rule.h has its equations.
#include "delta_rule.h"
#include "delta_rule_bf16.h"

namespace crossdna {
namespace {

template <typename T>
void forward_head(const Problem& p, int64_t b, int64_t h, const float* initial,
                  T* output, float* final_state, float* saved, float* state, Chunk& c) {
  const int64_t kp = padded(p.keys), vp = padded(p.values);
  const int64_t item = b * p.heads + h, size = p.keys * p.values;
  const int64_t segments = (p.length + SEGMENT - 1) / SEGMENT;
  load_state(p, initial + item * size, vp, state);
  for (int64_t start = 0; start < p.length; start += CHUNK) {
    const Place at = place(b, h, start, p.length);
    if (saved && start % SEGMENT == 0)
      save_state(p, state, vp, saved + (item * segments + start / SEGMENT) * size);
    read_chunk<T>(p, at, kp, vp, c);
    prepare(kp, c);
    write_vectors<true>(kp, vp, state, c);
    attention(c);
    for (int i = 0; i < CHUNK; ++i) scale_row(vp, c.qs + i * vp, c.after[i]);
    product(CHUNK, vp, CHUNK, c.qk, CHUNK, c.u, vp, c.qs, vp, 1.0f);
    for (int64_t i = 0; i < at.count; ++i)
      write_row(c.qs + i * vp, p.values, output + at.token(p, i) * p.values);
    advance(kp, vp, c, state);
  }
  save_state(p, state, vp, final_state + item * size);
}

template <typename T>
void forward(const Problem& p, const float* initial, T* output, float* final_state,
             float* saved, int threads) {
  const int64_t kp = padded(p.keys), vp = padded(p.values);
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(kp * vp + Chunk::floats(kp, vp));
    float* state = scratch.take(kp * vp);
    Chunk chunk(scratch, kp, vp);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < p.batch * p.heads; ++item)
      forward_head<T>(p, item / p.heads, item % p.heads, initial, output, final_state,
                      saved, state, chunk);
  }
}

#if defined(__AVX512BF16__)
void paired_head(const Problem& p, int64_t b, int64_t h, const float* initial,
                 bfloat16* output, float* final_state, float* state, Chunk& c,
                 PairedChunk& w) {
  const int64_t kp = padded(p.keys), vp = padded(p.values);
  const int64_t item = b * p.heads + h, size = p.keys * p.values;
  load_state(p, initial + item * size, vp, state);
  pack_state(kp, vp, state, w.state);
  for (int64_t start = 0; start < p.length; start += CHUNK) {
    const Place at = place(b, h, start, p.length);
    read_tokens<bfloat16>(p, at, kp, vp, c);
    scales(c);
    prepare_pairs(kp, p.keys, c, w);
    advance_pairs(kp, vp, state, c, w);
    for (int64_t i = 0; i < at.count; ++i)
      write_row(c.qs + i * vp, p.values, output + at.token(p, i) * p.values);
  }
  save_state(p, state, vp, final_state + item * size);
}

void paired_forward(const Problem& p, const float* initial, bfloat16* output,
                    float* final_state, int threads) {
  const int64_t kp = padded(p.keys), vp = padded(p.values);
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(kp * vp + Chunk::floats(kp, vp) + PairedChunk::floats(kp, vp));
    float* state = scratch.take(kp * vp);
    Chunk chunk(scratch, kp, vp);
    PairedChunk paired(scratch, kp, vp);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < p.batch * p.heads; ++item)
      paired_head(p, item / p.heads, item % p.heads, initial, output, final_state,
                  state, chunk, paired);
  }
}
#else
void paired_forward(const Problem& p, const float* initial, bfloat16* output,
                    float* final_state, int threads) {
  forward(p, initial, output, final_state, nullptr, threads);
}
#endif

}  // namespace
}  // namespace crossdna

extern "C" {

int64_t crossdna_delta_rule_segment() { return crossdna::SEGMENT; }

void crossdna_delta_rule_forward(const int64_t* sizes, const int64_t* strides,
                                 const void* const* operands, const float* initial,
                                 void* output, float* final_state, float* saved,
                                 int bf16, int threads) {
  using namespace crossdna;
  const Problem p = problem(sizes, strides, operands);
  if (bf16 && !saved)
    paired_forward(p, initial, static_cast<bfloat16*>(output), final_state, threads);
  else if (bf16)
    forward(p, initial, static_cast<bfloat16*>(output), final_state, saved, threads);
  else
    forward(p, initial, static_cast<float*>(output), final_state, saved, threads);
}
}
