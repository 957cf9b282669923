FROM debian AS debian
RUN a
FROM debian
RUN b
