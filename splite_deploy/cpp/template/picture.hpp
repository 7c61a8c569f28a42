// Reads a picture as RGB bytes, by stb_image. A program that has its own pictures needs neither.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include <splite/error.hpp>
#include <splite/preprocess.hpp>

#include "stb_image.h"

/// A picture of a file.
class Picture {
 public:
  explicit Picture(const std::string& file) {
    int width = 0, height = 0, channels = 0;
    pixels_.reset(stbi_load(file.c_str(), &width, &height, &channels, 3));
    if (!pixels_) throw splite::UsageError("The picture " + file + " cannot be read: " + stbi_failure_reason() + ".", "Name a JPEG, PNG or BMP.");
    std::ifstream stream(file, std::ios::binary);
    if (is_cut({std::istreambuf_iterator<char>(stream), {}})) {
      throw splite::UsageError("The picture " + file + " is cut: its end is missing.", "Copy it again from where it was taken.");
    }
    image_ = splite::Image(pixels_.get(), height, width);
  }
  const splite::Image& image() const { return image_; }

 private:
  /// Whether a JPEG lacks its end, for which stb_image gives grey.
  static bool is_cut(const std::string& data) {
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(data[at]); };
    if (data.compare(0, 2, "\xff\xd8") != 0) return false;
    for (std::size_t at = 2; at + 4 <= data.size();) {
      const int marker = byte(at + 1);
      if (byte(at) != 0xff || marker == 0xff) {
        ++at;
      } else if (marker == 0xda) {
        return data.find("\xff\xd9", at) == std::string::npos;
      } else {
        const bool alone = marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd9);
        at += alone ? std::size_t{2} : std::size_t{2} + (std::size_t{byte(at + 2)} << 8) + byte(at + 3);
      }
    }
    return false;
  }

  struct Free {
    void operator()(stbi_uc* pixels) const { stbi_image_free(pixels); }
  };
  std::unique_ptr<stbi_uc, Free> pixels_;
  splite::Image image_;
};
