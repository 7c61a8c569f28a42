// Reads a picture as RGB bytes, by stb_image. A program that has its own pictures needs neither.
// SPDX-License-Identifier: Apache-2.0
#pragma once

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
    image_ = splite::Image(pixels_.get(), height, width);
  }
  const splite::Image& image() const { return image_; }

 private:
  struct Free {
    void operator()(stbi_uc* pixels) const { stbi_image_free(pixels); }
  };
  std::unique_ptr<stbi_uc, Free> pixels_;
  splite::Image image_;
};
