FROM base
LABEL café="naïve" emoji="🚀"
ENV ÜBER=größe
RUN echo "日本語"
COPY données /ü/
