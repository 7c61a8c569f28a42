// The interface of a loaded artifact, whatever runs it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "model.hpp"

namespace splite {

/// One loaded artifact. One serves one thread: open another for the next.
class Session {
 public:
  virtual ~Session() = default;

  /// What the network takes: its one image, float32 (N, C, h, w) or uint8 (N, h, w, C).
  virtual const TensorSpec& input() const = 0;
  /// What it gives, by the names of the file.
  virtual const std::vector<TensorSpec>& outputs() const = 0;
  /// Runs the network on crops that lie one after the other. The results, by role, are float32 and stay valid until the
  /// next call. Throws BackendError.
  virtual const Arrays& run(const void* crops, std::int64_t count) = 0;
  /// What runs it, with its version.
  virtual std::string engine() const = 0;
};

/// A half float as float32.
inline float of_half(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16, exponent = half >> 10 & 31, rest = half & 1023;
  if (exponent == 0) {
    const float value = std::ldexp(static_cast<float>(rest), -24);
    return sign == 0 ? value : -value;
  }
  const std::uint32_t bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | rest << 13;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace splite
