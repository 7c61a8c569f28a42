// Frames of a V4L2 camera as RGB bytes, in YUYV of 640 x 480, which USB cameras give without decoding.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include <splite/error.hpp>
#include <splite/preprocess.hpp>

#ifdef __linux__
#include <fcntl.h>
#include <linux/videodev2.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

/// A camera, from which frames are taken until it ends. What the kernel holds is given back with the process.
class Camera {
 public:
  explicit Camera(const std::string& device) : device_(device), handle_(open(device.c_str(), O_RDWR)) {
    if (handle_ < 0) fail("cannot be opened");
    v4l2_format format{};
    format.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    format.fmt.pix.width = 640, format.fmt.pix.height = 480;
    format.fmt.pix.pixelformat = V4L2_PIX_FMT_YUYV;
    format.fmt.pix.field = V4L2_FIELD_NONE;
    call(VIDIOC_S_FMT, &format, "takes no format");
    if (format.fmt.pix.pixelformat != V4L2_PIX_FMT_YUYV) fail("gives no YUYV");
    width_ = static_cast<int>(format.fmt.pix.width), height_ = static_cast<int>(format.fmt.pix.height);
    row_bytes_ = format.fmt.pix.bytesperline;
    pixels_.resize(std::size_t{3} * format.fmt.pix.width * format.fmt.pix.height);
    image_ = splite::Image(pixels_.data(), height_, width_);
    v4l2_requestbuffers request{};
    request.count = 2, request.type = V4L2_BUF_TYPE_VIDEO_CAPTURE, request.memory = V4L2_MEMORY_MMAP;
    call(VIDIOC_REQBUFS, &request, "shares no memory");
    for (std::uint32_t index = 0; index < request.count; ++index) {
      v4l2_buffer buffer = numbered(index);
      call(VIDIOC_QUERYBUF, &buffer, "shares no memory");
      void* memory = mmap(nullptr, buffer.length, PROT_READ, MAP_SHARED, handle_, buffer.m.offset);
      if (memory == MAP_FAILED || buffer.length < row_bytes_ * format.fmt.pix.height) fail("shares no memory");
      frames_.push_back(static_cast<const std::uint8_t*>(memory));
      call(VIDIOC_QBUF, &buffer, "takes no buffer");
    }
    int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    call(VIDIOC_STREAMON, &type, "does not start");
  }
  ~Camera() { close(handle_); }
  Camera(const Camera&) = delete;
  Camera& operator=(const Camera&) = delete;

  /// The next frame, until the one after it; nullptr where the camera is gone.
  const splite::Image* next() {
    v4l2_buffer buffer = numbered(0);
    while (ioctl(handle_, VIDIOC_DQBUF, &buffer) != 0) {
      if (errno != EINTR) return nullptr;
    }
    convert(frames_.at(buffer.index));
    return ioctl(handle_, VIDIOC_QBUF, &buffer) == 0 ? &image_ : nullptr;
  }

 private:
  static v4l2_buffer numbered(std::uint32_t index) {
    v4l2_buffer buffer{};
    buffer.type = V4L2_BUF_TYPE_VIDEO_CAPTURE, buffer.memory = V4L2_MEMORY_MMAP, buffer.index = index;
    return buffer;
  }
  [[noreturn]] void fail(const char* what) const {
    throw splite::UsageError("The camera " + device_ + " " + what + ": " + std::strerror(errno) + ".", "v4l2-ctl --list-formats tells what cameras give.");
  }
  void call(unsigned long request, void* value, const char* what) const {
    if (ioctl(handle_, request, value) != 0) fail(what);
  }

  /// YUYV to RGB, by ITU-R BT.601 in video range.
  void convert(const std::uint8_t* from) {
    for (int row = 0; row < height_; ++row) {
      const std::uint8_t* line = from + static_cast<std::size_t>(row) * row_bytes_;
      std::uint8_t* to = pixels_.data() + std::size_t{3} * static_cast<std::size_t>(row) * static_cast<std::size_t>(width_);
      for (int column = 0; column < width_; ++column, to += 3) {
        const std::uint8_t* pair = line + 4 * (column / 2);
        const int y = 298 * (pair[2 * (column % 2)] - 16), u = pair[1] - 128, v = pair[3] - 128;
        const auto level = [](int value) { return static_cast<std::uint8_t>(std::clamp((value + 128) >> 8, 0, 255)); };
        to[0] = level(y + 409 * v), to[1] = level(y - 100 * u - 208 * v), to[2] = level(y + 516 * u);
      }
    }
  }

  std::string device_;
  int handle_;
  int width_ = 0, height_ = 0;
  std::size_t row_bytes_ = 0;
  std::vector<std::uint8_t> pixels_;
  std::vector<const std::uint8_t*> frames_;
  splite::Image image_;
};

#else

/// Other systems have no V4L2.
class Camera {
 public:
  explicit Camera(const std::string& device) {
    throw splite::UsageError("The camera " + device + " cannot be opened: cameras are read on Linux alone.", "Pass raw frames by --frames.");
  }
  const splite::Image* next() { return nullptr; }
};

#endif
