"""Takes events over gRPC and puts them on Kafka."""
