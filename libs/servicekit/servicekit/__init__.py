"""What each process needs: settings, logs, metrics, health, graceful stop, gRPC and Kafka wiring."""
