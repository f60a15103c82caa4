#include "dense_graph.h"

#include <onnxruntime_c_api.h>
#include <stdlib.h>

#include "files.h"

#define INPUTS 3
#define OUTPUTS 2

static const char *const INPUT_NAMES[INPUTS] = {"symbols", "hyper", "quality"};
static const char *const OUTPUT_NAMES[OUTPUTS] = {"scores", "distances"};

struct dense_graph {
    const OrtApi *api;
    OrtEnv *environment;
    OrtSessionOptions *options;
    OrtSession *session;
    OrtMemoryInfo *memory;
    OrtValue *outputs[OUTPUTS];
};

static void check(const dense_graph *g, OrtStatus *status) {
    if (status) fail("ONNX Runtime: %s", g->api->GetErrorMessage(status));
}

dense_graph *open_graph(const char *path) {
    dense_graph *g = memory(1, sizeof *g);
    g->api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!g->api)
        fail("ONNX Runtime: expected version 1.%d or newer, found %s", ORT_API_VERSION,
             OrtGetApiBase()->GetVersionString());
    check(g, g->api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "cdvision", &g->environment));
    check(g, g->api->CreateSessionOptions(&g->options));
    check(g, g->api->CreateSession(g->environment, path, g->options, &g->session));
    check(g, g->api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &g->memory));
    return g;
}

/* A tensor over the caller's values, which have to stay until the run is over. */
static OrtValue *tensor(const dense_graph *g, void *values, size_t bytes, const int64_t *shape,
                        size_t axes, ONNXTensorElementDataType type) {
    OrtValue *made = NULL;
    check(g, g->api->CreateTensorWithDataAsOrtValue(g->memory, values, bytes, shape, axes, type,
                                                    &made));
    return made;
}

static OrtValue *map_tensor(const dense_graph *g, int32_t *values, const cdv_shape *shape) {
    const int64_t axes[4] = {1, (int64_t)shape->channels, (int64_t)shape->height,
                             (int64_t)shape->width};
    size_t bytes = size_of(shape) * sizeof *values;
    return tensor(g, values, bytes, axes, 4, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
}

/* An output (1, rows, columns) of floats. */
static const float *matrix(const dense_graph *g, OrtValue *value, size_t *rows, size_t *columns) {
    OrtTensorTypeAndShapeInfo *info;
    int64_t axes[3];
    size_t count;
    void *values;
    check(g, g->api->GetTensorTypeAndShape(value, &info));
    check(g, g->api->GetDimensionsCount(info, &count));
    if (count != 3) fail("the graph: expected outputs of 3 axes, found %zu", count);
    check(g, g->api->GetDimensions(info, axes, 3));
    g->api->ReleaseTensorTypeAndShapeInfo(info);
    check(g, g->api->GetTensorMutableData(value, &values));
    *rows = (size_t)axes[1], *columns = (size_t)axes[2];
    return values;
}

static void release_outputs(dense_graph *g) {
    for (size_t k = 0; k < OUTPUTS; k++) {
        if (g->outputs[k]) g->api->ReleaseValue(g->outputs[k]);
        g->outputs[k] = NULL;
    }
}

dense_outputs run_graph(dense_graph *g, const latents *map, uint32_t quality) {
    int64_t from_zero = (int64_t)quality - 1, batch = 1; /* graphs count qualities from 0 */
    OrtValue *inputs[INPUTS] = {
        map_tensor(g, map->symbols, &map->shape), map_tensor(g, map->hyper, &map->hyper_shape),
        tensor(g, &from_zero, sizeof from_zero, &batch, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64)};
    release_outputs(g);
    check(g, g->api->Run(g->session, NULL, INPUT_NAMES, (const OrtValue *const *)inputs, INPUTS,
                         OUTPUT_NAMES, OUTPUTS, g->outputs));
    for (size_t k = 0; k < INPUTS; k++) g->api->ReleaseValue(inputs[k]);
    dense_outputs out;
    size_t cells, sides;
    out.scores = matrix(g, g->outputs[0], &out.cells, &out.classes);
    out.distances = matrix(g, g->outputs[1], &cells, &sides);
    if (cells != out.cells || sides != CDV_SIDES * CDV_BINS)
        fail("the graph: expected distances (%zu, %d), found (%zu, %zu)", out.cells,
             CDV_SIDES * CDV_BINS, cells, sides);
    return out;
}

void close_graph(dense_graph *g) {
    release_outputs(g);
    g->api->ReleaseMemoryInfo(g->memory);
    g->api->ReleaseSession(g->session);
    g->api->ReleaseSessionOptions(g->options);
    g->api->ReleaseEnv(g->environment);
    free(g);
}
