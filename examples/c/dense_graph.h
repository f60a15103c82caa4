/* One dense graph of `cdvision export MODEL --to onnx DIR`, run by ONNX Runtime's C interface. */
#ifndef DENSE_GRAPH_H
#define DENSE_GRAPH_H

#include "decoding.h"

typedef struct dense_graph dense_graph;

/* What a detector says of each cell: scores (cells, classes) and distances (cells, 32). They are
 * the graph's until its next run. */
typedef struct dense_outputs {
    const float *scores, *distances;
    size_t cells, classes;
} dense_outputs;

dense_graph *open_graph(const char *path);
dense_outputs run_graph(dense_graph *graph, const latents *map, uint32_t quality);
void close_graph(dense_graph *graph);

#endif
