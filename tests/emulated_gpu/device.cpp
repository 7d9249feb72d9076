// A CUDA device for a torch without CUDA: its memory is the processor's, and so are its kernels.
//
// What a kernel is given is seen as tensors of the processor for as long as it runs. Refused is what a GPU refuses: one
// operation with tensors of both devices, and drawing on one with a generator of the other.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>

namespace {

using at::Tensor;
using c10::DispatchKey;
using c10::DispatchKeySet;
using std::optional;

const c10::Device HERE(c10::DeviceType::CUDA, 0);
const c10::Stream STREAM(c10::Stream::DEFAULT, HERE);

struct Memory : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = nullptr;
    if (bytes && posix_memalign(&data, 64, bytes)) throw std::bad_alloc();
    return {data, data, &std::free, HERE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

struct NoMemory : Memory {
  c10::DataPtr allocate(size_t) override { return {nullptr, nullptr, [](void*) {}, HERE}; }
};

Memory memory;
NoMemory no_memory;
const bool registered = (c10::SetAllocator(c10::DeviceType::CUDA, &memory, 255), true);

struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return HERE; }
  c10::Device getDevice() const override { return HERE; }
  c10::Stream getStream(c10::Device) const noexcept override { return STREAM; }
  c10::Stream getDefaultStream(c10::Device) const override { return STREAM; }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return STREAM; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

// A generator that says it is the device's, and draws by one of the processor.
struct Draws : c10::GeneratorImpl {
  at::Generator own = at::detail::createCPUGenerator();
  Draws() : c10::GeneratorImpl(HERE, DispatchKeySet(DispatchKey::CUDA)) {}
  void set_current_seed(uint64_t seed) override { own.set_current_seed(seed); }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  uint64_t current_seed() const override { return own.current_seed(); }
  uint64_t seed() override { return own.seed(); }
  void set_state(const c10::TensorImpl& state) override { own.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return own.unsafeGetGeneratorImpl()->get_state(); }
  GeneratorImpl* clone_impl() const override {
    auto* copy = new Draws();
    copy->own = own.clone();
    return copy;
  }
};

at::Generator& default_draws() {
  static at::Generator draws = at::make_generator<Draws>();
  return draws;
}

struct Hooks : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override { return default_draws(); }
  // The first is asked for by sitecustomize.py, as torch.cuda.default_generators.
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    static bool is_first = true;
    return std::exchange(is_first, false) ? default_draws() : at::make_generator<Draws>();
  }
  c10::Device getDeviceFromPtr(void*) const override { return HERE; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  int getNumGPUs() const override { return 1; }
  void deviceSynchronize(c10::DeviceIndex) const override {}
  c10::Allocator* getCUDADeviceAllocator() const override { return &memory; }
};

// The same memory under another device's name.
Tensor seen_from(const Tensor& tensor, c10::Device device, DispatchKey key) {
  auto* kept = new c10::Storage(tensor.storage());
  c10::DataPtr data(kept->mutable_data(), kept, [](void* own) { delete static_cast<c10::Storage*>(own); }, device);
  c10::Storage storage(
      c10::Storage::use_byte_size_t(), kept->nbytes(), std::move(data), c10::GetAllocator(device.type()), true);
  auto seen = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), DispatchKeySet(key), tensor.dtype());
  seen.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return seen;
}

Tensor on_host(const Tensor& tensor) {
  if (tensor._is_zerotensor()) return at::zeros(tensor.sizes(), tensor.options().device(c10::kCPU));
  return seen_from(tensor, c10::kCPU, DispatchKey::CPU);
}

const Tensor& grow(const Tensor& self, at::IntArrayRef size, optional<at::MemoryFormat> = {}) {
  auto* own = self.unsafeGetTensorImpl();
  own->set_sizes_contiguous(size);
  const size_t bytes = (own->numel() + own->storage_offset()) * own->dtype().itemsize();
  const c10::Storage& storage = own->unsafe_storage();
  if (storage.nbytes() < bytes) {
    auto larger = memory.allocate(bytes);
    if (storage.nbytes()) std::memcpy(larger.get(), storage.data(), storage.nbytes());
    storage.set_data_ptr_noswap(std::move(larger));
    storage.set_nbytes(bytes);
  }
  return self;
}

// One call of a kernel of the processor on tensors of the device.
class Call {
 public:
  Call(const c10::OperatorHandle& kernel, torch::jit::Stack* stack) : schema_(kernel.schema()), stack_(*stack) {
    const size_t count = schema_.arguments().size();
    for (size_t place = 0; place < count; ++place)
      take(stack_[stack_.size() - count + place], schema_.arguments()[place].name() == "generator");
    TORCH_CHECK(!(sees_host_ && sees_device_), "Expected all tensors to be on the same device, in ", schema_.name());
    kernel.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);
    for (const Pair& pair : pairs_) write_back(pair);
    const size_t made = schema_.returns().size();
    for (size_t place = stack_.size() - made; place < stack_.size(); ++place) give(stack_[place]);
  }

 private:
  struct Pair {
    Tensor own, host;
    void* data;
  };

  void take(c10::IValue& value, bool is_generator) {
    if (value.isTensor()) {
      value = to_host(value.toTensor(), false);
    } else if (value.isTensorList()) {
      c10::List<Tensor> hosts;
      for (const Tensor& tensor : value.toTensorVector()) hosts.push_back(to_host(tensor, false));
      value = hosts;
    } else if (value.isOptionalTensorList()) {  // of an indexing kernel: a GPU takes positions on the processor too
      c10::List<optional<Tensor>> hosts;
      for (optional<Tensor> tensor : value.toOptionalTensorList())
        hosts.push_back(tensor ? optional<Tensor>(to_host(*tensor, true)) : tensor);
      value = hosts;
    } else if (value.isDevice() && value.toDevice().is_cuda()) {
      value = c10::Device(c10::kCPU);
    } else if (is_generator) {
      const at::Generator draws = value.isNone() ? default_draws() : value.toGenerator();
      auto* own = dynamic_cast<Draws*>(draws.unsafeGetGeneratorImpl());
      TORCH_CHECK(own, "Expected a 'cuda' device type for generator but found 'cpu', in ", schema_.name());
      value = own->own;
    }
  }

  Tensor to_host(const Tensor& tensor, bool are_positions) {
    if (!tensor.defined()) return tensor;
    if (tensor.is_cpu()) {
      sees_host_ = sees_host_ || (tensor.dim() > 0 && !are_positions);
      return tensor;
    }
    sees_device_ = true;
    const Tensor host = on_host(tensor);
    pairs_.push_back({tensor, host, host.storage().mutable_data()});
    return host;
  }

  static void write_back(const Pair& pair) {
    if (pair.own._is_zerotensor()) return;
    const bool has_moved = pair.host.storage().data() != pair.data && pair.host.numel();
    if (has_moved || pair.host.sizes() != pair.own.sizes()) grow(pair.own, pair.host.sizes());
    if (has_moved) on_host(pair.own).copy_(pair.host);
  }

  void give(c10::IValue& value) const {
    if (value.isTensor()) {
      value = to_device(value.toTensor());
    } else if (value.isTensorList()) {
      c10::List<Tensor> own;
      for (const Tensor& tensor : value.toTensorVector()) own.push_back(to_device(tensor));
      value = own;
    }
  }

  Tensor to_device(const Tensor& made) const {
    if (!made.defined() || !made.is_cpu()) return made;
    for (const Pair& pair : pairs_)
      if (pair.host.is_same(made)) return pair.own;
    for (const Pair& pair : pairs_) {
      if (!made.storage().data() || made.storage().data() != pair.own.storage().data()) continue;
      auto view = at::detail::make_tensor<c10::TensorImpl>(
          c10::Storage(pair.own.storage()), DispatchKeySet(DispatchKey::CUDA), made.dtype());
      view.unsafeGetTensorImpl()->set_sizes_and_strides(made.sizes(), made.strides(), made.storage_offset());
      return view;
    }
    return seen_from(made, HERE, DispatchKey::CUDA);
  }

  const c10::FunctionSchema& schema_;
  torch::jit::Stack& stack_;
  std::vector<Pair> pairs_;
  bool sees_host_ = false, sees_device_ = false;
};

void call_on_host(const c10::OperatorHandle& kernel, DispatchKeySet, torch::jit::Stack* stack) { Call(kernel, stack); }

Tensor empty(
    at::IntArrayRef size, optional<at::ScalarType> type, optional<at::Layout>, optional<at::Device>, optional<bool>,
    optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(
      size, &memory, DispatchKeySet(DispatchKey::CUDA), c10::dtype_or_default(type), format);
}

Tensor empty_strided(
    at::IntArrayRef size, at::IntArrayRef strides, optional<at::ScalarType> type, optional<at::Layout>,
    optional<at::Device>, optional<bool>) {
  return at::detail::empty_strided_generic(
      size, strides, &memory, DispatchKeySet(DispatchKey::CUDA), c10::dtype_or_default(type));
}

Tensor zeros_without_memory(
    at::IntArrayRef size, optional<at::ScalarType> type, optional<at::Layout>, optional<at::Device>, optional<bool>) {
  const DispatchKeySet keys({DispatchKey::CUDA, DispatchKey::ZeroTensor});
  return at::detail::empty_generic(size, &no_memory, keys, c10::dtype_or_default(type), std::nullopt);
}

Tensor& copy(Tensor& self, const Tensor& from, bool) {
  c10::impl::ExcludeDispatchKeyGuard no_gradients(c10::autograd_dispatch_keyset);
  (self.is_cuda() ? on_host(self) : self).copy_(from.is_cuda() ? on_host(from) : from);
  return self;
}

Tensor& set_part(Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef size, at::IntArrayRef strides) {
  auto* own = self.unsafeGetTensorImpl();
  own->set_storage_keep_dtype(std::move(source));
  own->set_sizes_contiguous(size);
  if (size.size() == strides.size()) own->set_sizes_and_strides(size, strides);
  own->set_storage_offset(offset);
  return self;
}

Tensor& set_whole(Tensor& self, at::Storage source) {
  const int64_t count = source.nbytes() / self.dtype().itemsize();
  return set_part(self, std::move(source), 0, {count}, {1});
}

Tensor& set_to(Tensor& self, const Tensor& source) {
  return set_part(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

// Attention by matrix products.
int64_t choose_attention(
    const Tensor&, const Tensor&, const Tensor&, const optional<Tensor>&, double, bool, optional<double>, bool) {
  return 0;
}

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&call_on_host>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_efficientzerotensor", &zeros_without_memory);
  library.impl("copy_", &copy);
  library.impl("resize_", &grow);
  library.impl("set_.source_Storage_storage_offset", &set_part);
  library.impl("set_.source_Storage", &set_whole);
  library.impl("set_.source_Tensor", &set_to);
  library.impl("view", TORCH_FN(at::native::view));
  library.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  library.impl("unfold", TORCH_FN(at::native::unfold));
  library.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  library.impl("_fused_sdp_choice", &choose_attention);
  // Kernels that torch would otherwise put together for a device it does not know.
  for (const char* name :
       {"convolution", "convolution_backward", "native_layer_norm", "native_layer_norm_backward", "mse_loss"})
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&call_on_host>());
}

}  // namespace

namespace at {
using CUDAHooks = ::Hooks;
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at

extern "C" void seed_device(uint64_t seed) { default_draws().set_current_seed(seed); }
