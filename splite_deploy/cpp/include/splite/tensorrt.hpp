// TensorRT on an NVIDIA GPU, for engines that 'splite-deploy compile' has built there: include it beside splite.hpp, and
// link nvinfer and cudart. It compiles with the headers of TensorRT 8.5 to 11, and no engine was run by it yet.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include "bundle.hpp"
#include "error.hpp"
#include "session.hpp"

namespace splite {

struct TensorRtOptions {
  int gpu = 0;  ///< Its number, as CUDA counts
};

namespace detail {

inline constexpr const char* kBuildHere = "Build it on this machine: splite-deploy compile BUNDLE.";

inline void check_cuda(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) return;
  throw BackendError(what + ": " + cudaGetErrorString(status) + ".",
                     "See that the driver works (nvidia-smi; on a Jetson 'splite-deploy doctor') and that the GPU has memory left.");
}

/// Keeps the last error of each thread: TensorRT reports in the thread that called it.
class TensorRtLog : public nvinfer1::ILogger {
 public:
  /// One for the whole program, and never freed: TensorRT holds on to the first logger that it is given.
  static TensorRtLog& one() {
    static auto* const log = new TensorRtLog;
    return *log;
  }
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kERROR) std::snprintf(last(), kMost, ": %s", message);
  }
  /// What to throw where `what` failed; what TensorRT said is forgotten then.
  BackendError error(const std::string& what) {
    const std::string said = last();
    last()[0] = '\0';
    return BackendError(what + said + ".", kBuildHere);
  }

 private:
  static constexpr std::size_t kMost = 512;
  static char* last() noexcept {
    thread_local char said[kMost] = "";
    return said;
  }
};

/// "10.3.0" of what the library itself says: 8503 before TensorRT 10, 100300 from there on.
inline std::string tensorrt_version(std::int32_t said) {
  const std::int32_t major = said < 10000 ? 1000 : 10000;
  return std::to_string(said / major) + "." + std::to_string(said % major / 100) + "." + std::to_string(said % 100);
}

/// Whether two versions agree in the numbers that both have, of which there are three at least.
inline bool same_version(const std::string& one, const std::string& other) {
  std::size_t shared = 0, at = 0;
  for (; at < one.size() && at < other.size() && one[at] == other[at]; ++at) shared += one[at] == '.';
  const bool ends = at == one.size() || at == other.size();
  const std::string& longer = at == one.size() ? other : one;
  return ends && shared >= 2 && (at == longer.size() || longer[at] == '.');
}

/// As Python calls it: engines do not move to another one.
inline std::string this_platform() {
#if defined(__aarch64__)
  return "linux-aarch64";
#elif defined(_WIN32)
  return "win32-amd64";
#else
  return "linux-x86_64";
#endif
}

/// Refuses an engine of another TensorRT, platform or GPU before TensorRT sees it: an engine is native code.
inline void check_engine(const std::vector<char>& engine, const Artifact& artifact, int gpu) {
  if (engine.size() < 4 || std::memcmp(engine.data() + 1, "trt", 3) != 0) {
    throw BackendError(artifact.file + " is not a TensorRT engine.", kBuildHere);
  }
  const auto built = [&](const std::string& name) {
    for (const auto& [key, value] : artifact.target) {
      if (key == name) return value;
    }
    throw BackendError("The manifest does not say for which " + name + " " + artifact.file + " was built.", kBuildHere);
  };
  const std::string here = tensorrt_version(getInferLibVersion());
  if (built("flavour") != "tensorrt" || !same_version(built("tensorrt"), here)) {
    throw BackendError(artifact.file + " was built by " + (built("flavour") == "rtx" ? "TensorRT-RTX " : "TensorRT ") +
                           built("tensorrt") + "; here is TensorRT " + here + ".", kBuildHere);
  }
  if (built("platform") != this_platform()) {
    throw BackendError(artifact.file + " was built for " + built("platform") + "; this is " + this_platform() + ".", kBuildHere);
  }
  int major = 0, minor = 0;
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, gpu), artifact.file + " needs an NVIDIA GPU");
  check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, gpu), artifact.file + " needs an NVIDIA GPU");
  const std::string capability = std::to_string(major) + "." + std::to_string(minor);
  if (built("compute_capability") != capability) {
    throw BackendError(artifact.file + " was built for a GPU of compute capability " + built("compute_capability") + "; this is one of " +
                           capability + ".", kBuildHere);
  }
}

struct FreeOnGpu {
  void operator()(void* memory) const noexcept { cudaFree(memory); }
};
struct FreeOnHost {
  void operator()(void* memory) const noexcept { cudaFreeHost(memory); }
};
struct DestroyStream {
  void operator()(CUstream_st* stream) const noexcept { cudaStreamDestroy(stream); }
};

/// A tensor of an engine with its memory on both sides, made for the largest batch.
struct Binding {
  TensorSpec spec;
  bool is_open = false;      ///< Whether its first size is the batch of a run
  bool is_half = false;
  std::size_t item_bytes = 0;  ///< Of one value
  std::unique_ptr<void, FreeOnGpu> gpu;
  std::unique_ptr<void, FreeOnHost> host;
  std::vector<float> values;  ///< What a run gives as float32, where the engine gives half floats

  /// Its first size: that of a tensor that is not open is fixed.
  std::int64_t rows(std::int64_t batch) const { return is_open ? batch : spec.shape[0]; }
  std::size_t count(std::int64_t batch) const {
    auto made = static_cast<std::size_t>(rows(batch));
    for (std::size_t axis = 1; axis < spec.shape.size(); ++axis) made *= static_cast<std::size_t>(spec.shape[axis]);
    return made;
  }
  std::size_t bytes(std::int64_t batch) const { return count(batch) * item_bytes; }
};

}  // namespace detail

/// An engine loaded into TensorRT, with a stream of its own.
class TensorRtNetwork : public Session {
 public:
  TensorRtNetwork(const std::vector<char>& engine, const Artifact& artifact, const TensorRtOptions& options)
      : input_(artifact.inputs.at(0)), outputs_(artifact.outputs), gpu_(options.gpu) {
    detail::check_engine(engine, artifact, gpu_);
    use_gpu();
    const std::string loading = "TensorRT cannot load " + artifact.file;
    runtime_.reset(nvinfer1::createInferRuntime(detail::TensorRtLog::one()));
    if (!runtime_) throw failed(loading);
    engine_.reset(runtime_->deserializeCudaEngine(engine.data(), engine.size()));
    if (!engine_) throw failed(loading);
    context_.reset(engine_->createExecutionContext());
    if (!context_) throw failed(loading);
    if (static_cast<std::size_t>(engine_->getNbIOTensors()) != 1 + outputs_.size()) {
      throw BundleError(artifact.file + " has other inputs or outputs than the manifest says.", kCopyAgain);
    }
    cudaStream_t stream = nullptr;
    detail::check_cuda(cudaStreamCreate(&stream), loading);
    stream_.reset(stream);
    read_batches();
    bindings_.push_back(bound(input_, nvinfer1::TensorIOMode::kINPUT, artifact.file));
    for (const TensorSpec& one : outputs_) bindings_.push_back(bound(one, nvinfer1::TensorIOMode::kOUTPUT, artifact.file));
  }
  TensorRtNetwork(const TensorRtNetwork&) = delete;
  TensorRtNetwork& operator=(const TensorRtNetwork&) = delete;

  const TensorSpec& input() const override { return input_; }
  const std::vector<TensorSpec>& outputs() const override { return outputs_; }
  std::string engine() const override { return "TensorRT " + detail::tensorrt_version(getInferLibVersion()); }

  const Arrays& run(const void* crops, std::int64_t count) override {
    const std::string running = "TensorRT failed";
    const detail::Binding& image = bindings_[0];
    if (count < least_ || count > most_) {
      throw BackendError("The engine takes " + std::to_string(least_) + " to " + std::to_string(most_) + " crops at once, not " +
                             std::to_string(count) + ".",
                         "Build it for more, splite-deploy compile BUNDLE --batch, or pass so many boxes.");
    }
    use_gpu();
    if (image.is_open) set_batch(count);
    std::memcpy(image.host.get(), crops, image.bytes(count));
    detail::check_cuda(cudaMemcpyAsync(image.gpu.get(), image.host.get(), image.bytes(count), cudaMemcpyHostToDevice, stream_.get()), running);
    if (!context_->enqueueV3(stream_.get())) throw failed(running);
    for (std::size_t i = 1; i < bindings_.size(); ++i) {
      const detail::Binding& one = bindings_[i];
      detail::check_cuda(cudaMemcpyAsync(one.host.get(), one.gpu.get(), one.bytes(count), cudaMemcpyDeviceToHost, stream_.get()), running);
    }
    detail::check_cuda(cudaStreamSynchronize(stream_.get()), running);
    arrays_.clear();
    for (std::size_t i = 1; i < bindings_.size(); ++i) arrays_.emplace_back(bindings_[i].spec.role, array_of(bindings_[i], count));
    return arrays_;
  }

 private:
  void use_gpu() const { detail::check_cuda(cudaSetDevice(gpu_), "The GPU cannot be used"); }

  static BackendError failed(const std::string& what) { return detail::TensorRtLog::one().error(what); }

  /// How many crops an engine takes: what its profile says where the batch is open, else the first size of the image.
  void read_batches() {
    const char* name = input_.name.c_str();
    least_ = most_ = std::max<std::int64_t>(input_.shape[0], 1);
    const nvinfer1::Dims image = engine_->getTensorShape(name);
    if (image.nbDims < 1 || image.d[0] >= 0) return;
    least_ = engine_->getProfileShape(name, 0, nvinfer1::OptProfileSelector::kMIN).d[0];
    most_ = engine_->getProfileShape(name, 0, nvinfer1::OptProfileSelector::kMAX).d[0];
  }

  /// A tensor with its memory, as the engine has it, which has to be what the manifest says.
  detail::Binding bound(const TensorSpec& spec, nvinfer1::TensorIOMode mode, const std::string& file) {
    const char* name = spec.name.c_str();
    const nvinfer1::DataType type = engine_->getTensorDataType(name);
    const nvinfer1::Dims shape = engine_->getTensorShape(name);
    const bool is_input = mode == nvinfer1::TensorIOMode::kINPUT;
    const std::string taken = is_input ? "float32 or uint8" : "float32 or float16";
    detail::Binding made;
    made.spec = spec;
    made.is_half = spec.dtype == "float16";
    made.item_bytes = spec.dtype == "float32" ? 4 : made.is_half ? 2 : 1;
    if (spec.dtype != "float32" && spec.dtype != (is_input ? "uint8" : "float16")) {
      throw BackendError(file + " has '" + spec.name + "' in " + spec.dtype + "; this runtime takes " + taken + ".", detail::kBuildHere);
    }
    const nvinfer1::DataType said = made.item_bytes == 4 ? nvinfer1::DataType::kFLOAT : made.is_half ? nvinfer1::DataType::kHALF : nvinfer1::DataType::kUINT8;
    bool is_right = engine_->getTensorIOMode(name) == mode && type == said && shape.nbDims == static_cast<int>(spec.shape.size());
    is_right = is_right && engine_->getTensorFormat(name) == nvinfer1::TensorFormat::kLINEAR;
    for (int axis = 0; is_right && axis < shape.nbDims; ++axis) {
      const bool one_batch = axis == 0 && shape.d[0] < 0 && least_ == most_;  // of which the manifest says the only one
      is_right = spec.shape[static_cast<std::size_t>(axis)] == (one_batch ? most_ : shape.d[axis]);
    }
    if (!is_right) throw BundleError(file + " has another tensor '" + spec.name + "' than the manifest says.", detail::kBuildHere);
    made.is_open = shape.d[0] < 0;
    const std::string what = "There is no room for the tensor '" + spec.name + "'";
    void* memory = nullptr;
    detail::check_cuda(cudaMalloc(&memory, made.bytes(most_)), what);
    made.gpu.reset(memory);
    detail::check_cuda(cudaMallocHost(&memory, made.bytes(most_)), what);
    made.host.reset(memory);
    if (made.is_half) made.values.resize(made.count(most_));
    if (!context_->setTensorAddress(name, made.gpu.get())) throw failed("TensorRT has no tensor '" + spec.name + "'");
    return made;
  }

  void set_batch(std::int64_t count) {
    nvinfer1::Dims shape = engine_->getTensorShape(input_.name.c_str());
    shape.d[0] = static_cast<std::decay_t<decltype(shape.d[0])>>(count);
    if (!context_->setInputShape(input_.name.c_str(), shape)) throw failed("TensorRT takes no " + std::to_string(count) + " crops");
    for (std::size_t i = 1; i < bindings_.size(); ++i) {  // one that is open to something else might be larger than its memory
      const detail::Binding& one = bindings_[i];
      const nvinfer1::Dims given = context_->getTensorShape(one.spec.name.c_str());
      std::size_t size = 1;
      for (int axis = 0; axis < given.nbDims; ++axis) size *= static_cast<std::size_t>(given.d[axis]);
      if (size != one.count(count)) {
        throw BackendError("The engine gives '" + one.spec.name + "' in another shape than the manifest says.", detail::kBuildHere);
      }
    }
  }

  static Array array_of(detail::Binding& one, std::int64_t count) {
    Array array;
    array.shape = one.spec.shape;
    array.shape[0] = one.rows(count);
    array.data = static_cast<const float*>(one.host.get());
    if (one.is_half) {
      const auto* from = static_cast<const std::uint16_t*>(one.host.get());
      for (std::size_t i = 0; i < one.count(count); ++i) one.values[i] = of_half(from[i]);
      array.data = one.values.data();
    }
    return array;
  }

  TensorSpec input_;
  std::vector<TensorSpec> outputs_;
  int gpu_;
  std::int64_t least_ = 1, most_ = 1;  ///< Crops at once
  std::unique_ptr<nvinfer1::IRuntime> runtime_;  // outlives the engine, and the engine the context
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::unique_ptr<CUstream_st, detail::DestroyStream> stream_;
  std::vector<detail::Binding> bindings_;
  Arrays arrays_;
};

/// Loads an engine; `precision` is empty for the first of them.
inline std::unique_ptr<Session> open_tensorrt(const Bundle& bundle, const std::string& precision = "", const TensorRtOptions& options = {}) {
  const Artifact& artifact = bundle.find("engine", precision);
  return std::make_unique<TensorRtNetwork>(bundle.read(artifact.file, artifact.sha256), artifact, options);
}

}  // namespace splite
