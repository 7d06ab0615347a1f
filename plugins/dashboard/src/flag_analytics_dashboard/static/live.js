// The live stream: the browser's own EventSource. The server ends it now and then, and it comes back by itself.

import { address } from "./client.js";

const PATIENCE_MILLISECONDS = 4_000;

export class Live extends EventTarget {
  isDown = true;
  waiting = 0;

  open() {
    this.source = new EventSource(address("/live"));
    this.source.onmessage = ({ data }) => {
      this.isDown = false;
      clearTimeout(this.waiting);
      this.waiting = 0;
      this.dispatchEvent(new CustomEvent("message", { detail: JSON.parse(data) }));
    };
    this.source.addEventListener("problem", () => this.down());
    this.source.onerror = () => {
      this.waiting ||= setTimeout(() => this.down(), PATIENCE_MILLISECONDS);
      // Closed for good, by a refusal for example: try again by ourselves.
      if (this.source.readyState === EventSource.CLOSED) setTimeout(() => this.open(), 10_000);
    };
    addEventListener("pagehide", () => this.source.close());
  }

  down() {
    this.waiting = 0;
    this.isDown = true;
    this.dispatchEvent(new Event("down"));
  }
}
