"""Streams out of files and results into files, on one machine, on Ray and on Spark.

``sources`` reads streams from folders, globs, tars and Parquet; ``sinks`` writes results;
``schema`` is the one table layout that all of them share; ``ray`` and ``spark`` run on clusters.
"""
