/* An external delegate of TensorFlow Lite that computes ABS and NEG of float32, for the tests of --delegate.

   What it declares of TensorFlow Lite are the beginnings of the structures in tensorflow/lite/core/c/common.h
   (Apache-2.0), which are a stable ABI. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int size; int data[]; } IntArray;
typedef struct {
  int type;
  void *data;
  IntArray *dims;
  struct { float scale; int32_t zero; } params;
  int allocation_type;
  size_t bytes;
  const void *allocation;
  const char *name;
  void *delegate;
  int buffer_handle;
  _Bool data_is_stale, is_variable;
  struct { int type; void *params; } quantization;
  void *sparsity;
  const IntArray *dims_signature;
} Tensor;
typedef struct { IntArray *inputs, *outputs, *intermediates, *temporaries; void *user_data; } Node;
typedef struct Context Context;
typedef struct Delegate Delegate;
typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *registration_external, *async_kernel;
  uint64_t inplace_operator;
} Registration;
struct Context {
  size_t tensors_size;
  int (*get_execution_plan)(Context *, IntArray **);
  Tensor *tensors;
  void *impl;
  int (*resize_tensor)(Context *, Tensor *, IntArray *);
  void (*report_error)(Context *, const char *, ...);
  int (*add_tensors)(Context *, int, int *);
  int (*get_node_and_registration)(Context *, int, Node **, Registration **);
  int (*replace_node_subsets)(Context *, Registration, const IntArray *, Delegate *);
};
struct Delegate {
  void *data;
  int (*prepare)(Context *, Delegate *);
  void *copy_from, *copy_to, *free_handle;
  int64_t flags;
  void *opaque_builder;
};
typedef struct { Delegate *delegate; IntArray *nodes, *inputs, *outputs; } Params;
typedef struct { int input, output, count; int32_t codes[]; } Chain;

enum { ABS = 101, NEG = 59 };

/* A part of the graph: operators of one input and one output each, one after the other. */
static void *chain_init(Context *context, const char *buffer, size_t length) {
  (void)length;
  const Params *params = (const Params *)buffer;
  Chain *chain = malloc(sizeof *chain + params->nodes->size * sizeof(int32_t));
  chain->count = params->nodes->size;
  for (int i = 0; i < chain->count; ++i) {
    Node *node;
    Registration *registration;
    context->get_node_and_registration(context, params->nodes->data[i], &node, &registration);
    chain->codes[i] = registration->builtin_code;
    if (i == 0) chain->input = node->inputs->data[0];
    chain->output = node->outputs->data[0];
  }
  return chain;
}

static void chain_free(Context *context, void *chain) {
  (void)context;
  free(chain);
}

static int chain_prepare(Context *context, Node *node) {
  (void)context, (void)node;
  return 0;
}

static int chain_invoke(Context *context, Node *node) {
  const Chain *chain = node->user_data;
  const Tensor *from = &context->tensors[chain->input];
  const Tensor *to = &context->tensors[chain->output];
  float *values = to->data;
  memcpy(values, from->data, to->bytes);
  for (int i = 0; i < chain->count; ++i)
    for (size_t k = 0; k < to->bytes / sizeof(float); ++k)
      values[k] = chain->codes[i] == ABS ? fabsf(values[k]) : -values[k];
  return 0;
}

static int delegate_prepare(Context *context, Delegate *delegate) {
#ifdef REFUSES
  return 1;
#endif
  IntArray *plan;
  if (context->get_execution_plan(context, &plan)) return 1;
  IntArray *taken = malloc(sizeof *taken + plan->size * sizeof(int));
  taken->size = 0;
  for (int i = 0; i < plan->size; ++i) {
    Node *node;
    Registration *registration;
    if (context->get_node_and_registration(context, plan->data[i], &node, &registration)) return 1;
    if (registration->builtin_code == ABS || registration->builtin_code == NEG)
      taken->data[taken->size++] = plan->data[i];
  }
  Registration kernel = {chain_init, chain_free, chain_prepare, chain_invoke, 0, 0, "UnaryDelegate", 1, 0, 0, 0};
  int status = context->replace_node_subsets(context, kernel, taken, delegate);
  free(taken);
  return status;
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t count, void (*report)(const char *)) {
  (void)keys, (void)values, (void)count;
#ifdef NO_DEVICE
  report("there is no such device");
  return NULL;
#else
  (void)report;
  Delegate *delegate = calloc(1, sizeof *delegate);
  delegate->prepare = delegate_prepare;
  return delegate;
#endif
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
