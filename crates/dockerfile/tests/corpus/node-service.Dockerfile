FROM node:20-bookworm-slim
WORKDIR /usr/src/app
ARG PORT=3000
ENV NODE_ENV=production PORT=$PORT
EXPOSE $PORT
COPY package*.json ./
RUN npm ci --omit=dev \
 && npm cache clean --force
COPY --chown=node:node . .
USER node
ENTRYPOINT ["node", "server.js"]
