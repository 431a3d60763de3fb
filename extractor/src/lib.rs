//! drover-extractor
