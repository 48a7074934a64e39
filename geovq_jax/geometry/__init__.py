"""Pull-back geometry of a decoder: metric, geodesics, graphs, shortest paths, clustering."""
