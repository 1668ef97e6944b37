/* SPDX-License-Identifier: Apache-2.0
   A library of one operator for MXNet 1.9 (lib_api.h, version 11), which writes the address of MXNet's random generators
   to its output. MXNet asks for each of the functions below by name. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int accept(void) { return 1; }

int initialize(int version) { return version / 100 == 109; }
int _opVersion(void) { return 11; }
int _opRegSize(void) { return 1; }
void _opRegGet(int index, const char **name, int *is_subgraph, const char ***contexts, void ***forwards, int *forward_count,
               const char ***backward_contexts, void ***backwards, int *backward_count, const char ***create_contexts,
               void ***creates, int *create_count, void **parse, void **type, void **storage, void **shape, void **mutate) {
    static const char *cpu[] = {"cpu"};
    static void *functions[1];
    functions[0] = (void *)accept;
    (void)index;
    *name = "_mvn_streams";
    *is_subgraph = 0;
    *contexts = cpu; *forwards = functions; *forward_count = 1;
    *backward_contexts = 0; *backwards = 0; *backward_count = 0;
    *create_contexts = 0; *creates = 0; *create_count = 0;
    *parse = *type = *shape = (void *)accept;
    *storage = *mutate = 0;
}
void _opCallFree(void *p) { free(p); }
int _opCallParseAttrs(void *f, const char *const *keys, const char *const *values, int count, int *inputs, int *outputs) {
    (void)f; (void)keys; (void)values; (void)count;
    *inputs = *outputs = 1;
    return 1;
}
static unsigned *copied(const unsigned *shape, int axes) {
    unsigned *copy = malloc((size_t)axes * sizeof(unsigned));
    return memcpy(copy, shape, (size_t)axes * sizeof(unsigned));
}
int _opCallInferShape(void *f, const char *const *keys, const char *const *values, int count, unsigned **in, int *in_axes,
                      int inputs, unsigned ***changed, int **changed_axes, unsigned ***out, int **out_axes, int outputs) {
    (void)f; (void)keys; (void)values; (void)count; (void)inputs; (void)outputs;
    *changed = malloc(sizeof(unsigned *)); *changed_axes = malloc(sizeof(int));
    *out = malloc(sizeof(unsigned *)); *out_axes = malloc(sizeof(int));
    (*changed_axes)[0] = (*out_axes)[0] = in_axes[0];
    (*changed)[0] = copied(in[0], in_axes[0]);
    (*out)[0] = copied(in[0], in_axes[0]);
    return 1;
}
int _opCallInferType(void *f, const char *const *keys, const char *const *values, int count, int *in, int inputs, int *out, int outputs) {
    (void)f; (void)keys; (void)values; (void)count; (void)inputs; (void)outputs;
    out[0] = in[0];
    return 1;
}
int _opCallInferSType(void *f, const char *const *keys, const char *const *values, int count, int *in, int inputs, int *out, int outputs) {
    (void)f; (void)keys; (void)values; (void)count; (void)inputs; (void)outputs;
    in[0] = out[0] = 0;
    return 1;
}
int _opCallFCompute(void *f, const char *const *keys, const char *const *values, int count, const int64_t **in_shapes, int *in_axes,
                    void **in, int *in_types, size_t *in_ids, const char **in_devices, int *in_numbers, int inputs,
                    const int64_t **out_shapes, int *out_axes, void **out, int *out_types, size_t *out_ids,
                    const char **out_devices, int *out_numbers, int outputs, void *cpu_malloc, void *cpu_memory,
                    void *gpu_malloc, void *gpu_memory, void *stream, void *sparse_malloc, void *sparse_memory,
                    int *in_storage, int *out_storage, void **in_indices, void **out_indices, void **in_pointers,
                    void **out_pointers, int64_t *in_index_sizes, int64_t *out_index_sizes, int64_t *in_pointer_sizes,
                    int64_t *out_pointer_sizes, void *cpu_generators, void *gpu_generators) {
    (void)f; (void)keys; (void)values; (void)count; (void)in_shapes; (void)in_axes; (void)in; (void)in_types; (void)in_ids;
    (void)in_devices; (void)in_numbers; (void)inputs; (void)out_shapes; (void)out_axes; (void)out_types; (void)out_ids;
    (void)out_devices; (void)out_numbers; (void)outputs; (void)cpu_malloc; (void)cpu_memory; (void)gpu_malloc; (void)gpu_memory;
    (void)stream; (void)sparse_malloc; (void)sparse_memory; (void)in_storage; (void)out_storage; (void)in_indices;
    (void)out_indices; (void)in_pointers; (void)out_pointers; (void)in_index_sizes; (void)out_index_sizes;
    (void)in_pointer_sizes; (void)out_pointer_sizes; (void)gpu_generators;
    memcpy(out[0], &cpu_generators, sizeof cpu_generators);
    return 1;
}
int _opCallMutateInputs(void *f, const char *const *keys, const char *const *values, int count, int **mutable, int *mutables) {
    (void)f; (void)keys; (void)values; (void)count; (void)mutable;
    *mutables = 0;
    return 1;
}
int _opCallCreateOpState(void) { return 1; }
void _opCallDestroyOpState(void) {}
int _opCallFStatefulCompute(void) { return 1; }
int _partRegSize(void) { return 0; }
void _partRegGetCount(void) {}
void _partRegGet(void) {}
int _partCallSupportedOps(void) { return 1; }
int _partCallCreateSelector(void) { return 1; }
void _partCallSelect(void) {}
void _partCallSelectInput(void) {}
void _partCallSelectOutput(void) {}
void _partCallFilter(void) {}
void _partCallReset(void) {}
int _partCallReviewSubgraph(void) { return 1; }
int _passRegSize(void) { return 0; }
void _passRegGet(void) {}
int _passCallGraphPass(void) { return 1; }
int _msgSize(void) { return 0; }
int _msgGet(int index, const char **text) { (void)index; (void)text; return 0; }
